// Pure: which VM the page's path names, and what the page says of its job.

/** Return the id, UUID, domain or name in /vms/VM/console, '' in any other path. */
export function vmIn(path) {
  try {
    return decodeURIComponent(path.match(/\/vms\/([^/]+)\/console$/)?.[1] ?? '');
  } catch {
    return '';
  }
}

// Action of a job in the API → what the page says of it.
const DOING = {
  vm_create: 'Creating the VM',
  vm_update: 'Updating the VM',
  vm_delete: 'Deleting the VM',
  vm_start: 'Starting the VM',
  vm_stop: 'Stopping the VM',
  vm_restart: 'Restarting the VM',
  vm_pause: 'Pausing the VM',
  vm_resume: 'Resuming the VM',
  snapshot_create: 'Creating a snapshot',
  snapshot_restore: 'Restoring a snapshot',
  snapshot_delete: 'Deleting a snapshot',
};

/** Return what a job of the API does at the time `now` (ms), '' without a job. */
export function stepOf(job, now) {
  if (!job) return '';
  const doing = DOING[job.action] ?? job.action;
  if (job.status !== 'running') return `${doing}: ${job.status}`;
  const limit = job.stepTimeoutSeconds;
  if (!limit) return job.step || doing;
  // The clocks of browser and service may differ.
  const waited = Math.trunc((now - Date.parse(job.stepStartedAt)) / 1000);
  return `${job.step} … ${Math.max(0, Math.min(limit, waited))} of ${limit} s`;
}
