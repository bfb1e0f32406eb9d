// Follows the unfinished job of a VM, as its status in the API has it.

import { stepOf } from './texts.js';

const BUSY_MS = 2000;
const IDLE_MS = 10_000;
// Others pass: the network or the database is away, or there were too many requests.
const FINAL = ['UNAUTHORIZED', 'FORBIDDEN', 'VM_NOT_FOUND', 'VM_AMBIGUOUS'];

/**
 * Show what the VM's unfinished job does, until the status can no longer be requested.
 *
 * `request` returns the VM's status, `show` takes the words, `pause` waits for milliseconds.
 */
export async function followJob(request, show, pause) {
  for (let milliseconds = IDLE_MS; ; await pause(milliseconds)) {
    try {
      const { job } = await request();
      show(stepOf(job, Date.now()));
      milliseconds = job ? BUSY_MS : IDLE_MS;
    } catch (error) {
      if (FINAL.includes(error.code)) break;
    }
  }
  show('');
}
