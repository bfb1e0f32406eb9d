// The console page: requests a token, opens the VM's screen or serial console, and explains why
// when it cannot. Text from the API and from users is inserted as text only, never as HTML.

import { followJob } from './job.js';
import { vmIn } from './texts.js';

const TOKEN_KEY = 'virtplay-token';
const POLL_MS = 2000;
// The service observes hosts at intervals: a VM that has just stopped may still be "running".
const STALE_MS = 10_000;
const WITH_CONSOLE = ['running', 'paused', 'pausing', 'resuming', 'stopping', 'restarting',
  'updating', 'restoring'];
const OPEN_MS = 20_000;
const ERROR_MS = 500;
const POLICY_VIOLATION = 1008;

const at = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

// Relative, so that the page also works below the path of a reverse proxy.
// An id, UUID, domain or name: the API takes each of them.
const vmName = vmIn(location.pathname);
const vmPath = `vms/${encodeURIComponent(vmName)}`;
const api = new URL('../../api/v1/', location.href);

let token = recall();
let kind = new URLSearchParams(location.search).get('type') === 'serial' ? 'serial' : 'screen';
let view = null;
let fits = true;
// Each attempt has a number: results of an older attempt are dropped.
let attempt = 0;
let jobIsShown = false;
// Ends the pause before the next look at the job.
let lookAgain = () => {};

class Refusal extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function recall() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? '';
  } catch {
    return '';
  }
}

function remember(text) {
  token = text;
  at('forget').hidden = !text;
  try {
    if (text) sessionStorage.setItem(TOKEN_KEY, text);
    else sessionStorage.removeItem(TOKEN_KEY);
  } catch {
    // Without session storage, the page requests the token again at the next visit.
  }
}

/** Return the data of a request; throw Refusal with the API's code, NETWORK without a response. */
async function request(path, method = 'GET') {
  let response;
  let body;
  try {
    response = await fetch(new URL(path, api), {
      method,
      headers: { Authorization: `Bearer ${token}` },
      cache: 'no-store',
    });
  } catch {
    throw new Refusal('NETWORK', `No response from ${location.host}: the service may have stopped,`
      + ' or the network is down.');
  }
  try {
    body = await response.json();
  } catch {
    body = null;
  }
  if (body?.success === true) return body.data;
  if (body?.success === false) {
    throw new Refusal(String(body.error.code), sentence(String(body.error.message)));
  }
  throw new Refusal('NETWORK', `${location.host} sent HTTP ${response.status}, not a response`
    + ' of Virtplay: check the proxies on the way.');
}

function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

// Display

function showStatus(words) {
  at('status').textContent = words;
}

function cover(id) {
  for (const card of ['login', 'connecting', 'notice']) at(card).hidden = card !== id;
}

function showConnecting(title) {
  at('connecting-title').textContent = title;
  cover('connecting');
  showStatus(title);
}

function notice(title, text) {
  at('notice-title').textContent = title;
  at('notice-text').textContent = text;
  at('notice-start').hidden = true;
  cover('notice');
  showStatus(title);
}

// A guest that has crashed, or that QEMU has paused, still has its screen.
function hasConsole(vm) {
  return WITH_CONSOLE.includes(vm.status) || vm.error?.code === 'GUEST_NOT_RUNNING';
}

function showVm(vm) {
  at('name').textContent = vm.name === vm.id ? vm.id : `${vm.name} (${vm.id})`;
  at('state').textContent = vm.status;
  at('state').dataset.state = vm.status;
  at('state').hidden = false;
  document.title = `${vm.name} - Console`;
  if (!jobIsShown) showJob(vm.id);
}

/** Show what the VM's unfinished job does, until a request is rejected for good. */
async function showJob(id) {
  jobIsShown = true;
  await followJob(
    () => {
      if (!token) throw new Refusal('UNAUTHORIZED', 'The token was deleted from this tab.');
      return request(`vms/${id}/status`);
    },
    (words) => { at('job').textContent = words; },
    async (milliseconds) => {
      const called = new Promise((done) => { lookAgain = done; });
      await Promise.race([pause(milliseconds), called]);
      while (document.hidden) await pause(milliseconds);
    },
  );
  jobIsShown = false;
}

function showKind() {
  for (const name of ['screen', 'serial']) {
    at(name).setAttribute('aria-pressed', String(name === kind));
  }
  for (const button of document.querySelectorAll('[data-of]')) {
    button.hidden = button.dataset.of !== kind;
  }
  const address = new URL(location.href);
  if (kind === 'serial') address.searchParams.set('type', 'serial');
  else address.searchParams.delete('type');
  history.replaceState(null, '', address);
}

function setUsable(usable) {
  at('keys').disabled = !usable;
  at('paste').disabled = !usable;
}

function requestToken(why) {
  remember('');
  lookAgain();
  at('login-why').textContent = why;
  cover('login');
  showStatus(why);
  at('token').focus();
}

// Connecting

/** Close the console, and begin a new attempt; return its number. */
function begin() {
  attempt += 1;
  setUsable(false);
  const old = view;
  view = null;
  old?.close();
  at('stage').replaceChildren();
  return attempt;
}

async function connect() {
  let mine = begin();
  if (!vmName) {
    notice('Invalid address', 'The address must have the form /vms/VM/console.');
    return;
  }
  if (document.body.dataset.packages !== 'installed') {
    notice('The console is not installed', 'The service lacks noVNC and xterm.js. Run "make setup"'
      + ' in its directory on its machine, then restart the service.');
    return;
  }
  if (!token) {
    requestToken('The console requires an API token.');
    return;
  }
  showConnecting(kind === 'serial' ? 'Opening the serial console …' : 'Opening the screen …');
  try {
    const module = await import(kind === 'serial' ? './serial.js' : './screen.js');
    if (mine !== attempt) return;
    // From now on it keeps the keys that are pressed, until the guest can have them.
    view = module.prepare(at('stage'));
    const vm = await request(vmPath);
    if (mine !== attempt) return;
    showVm(vm);
    if (!hasConsole(vm)) {
      mine = begin();
      await wait(mine, vm, POLL_MS);
      return;
    }
    const type = kind === 'serial' ? 'serial' : 'vnc';
    const ticket = await request(`${vmPath}/console?type=${type}`);
    if (mine === attempt) await open(mine, ticket);
  } catch (error) {
    if (mine === attempt) explain(error);
  }
}

/** Show why the console cannot be opened, and the remedy. */
function explain(error) {
  const mine = begin();
  switch (error.code) {
    case 'UNAUTHORIZED':
      requestToken('This token is invalid, expired or revoked. Enter another one.');
      break;
    case 'FORBIDDEN':
      requestToken('The role of this token is viewer. The console requires operator or admin.');
      break;
    case 'RATE_LIMITED':
      notice('Too many failed logins', error.message);
      break;
    case 'VM_NOT_FOUND':
      notice('VM not found', `VM ${vmName} does not exist; it may have been deleted.`);
      break;
    case 'VM_ALREADY_STOPPED':
      wait(mine, { status: 'stopped' }, STALE_MS).catch((later) => {
        if (mine === attempt) explain(later);
      });
      break;
    case 'HOST_UNREACHABLE':
      notice('The host is unreachable', error.message);
      break;
    case 'NETWORK':
      notice('The service is unreachable', error.message);
      break;
    default:
      notice('Cannot open the console',
        error.code ? `${error.message} (${error.code})` : String(error));
  }
}

/** Poll the VM until it has a console, then connect. */
async function wait(mine, vm, milliseconds) {
  const waits = 'This page connects as soon as the VM is running.';
  let shown = '';
  for (let now = vm; ; now = await request(vmPath)) {
    if (mine !== attempt) return;
    if (now !== vm) {
      showVm(now);
      if (hasConsole(now)) {
        await connect();
        return;
      }
    }
    if (shown !== now.status) {
      shown = now.status;
      notice(`The VM is ${shown}`, {
        unreachable: `Its host ${now.host ?? ''} is unreachable, so its state is unknown.`
          + ' This page connects as soon as the host is reachable again.',
        error: `${sentence(String(now.error?.message ?? 'unknown'))} ${waits}`,
      }[shown] ?? waits);
      at('notice-start').hidden = shown !== 'stopped';
    }
    do await pause(milliseconds); while (document.hidden && mine === attempt);
    if (mine !== attempt) return;
  }
}

/** Poll a VM whose console stream has ended: its new state is observed only later. */
async function follow(mine, vm) {
  for (let before = vm; ;) {
    do await pause(POLL_MS); while (document.hidden && mine === attempt);
    if (mine !== attempt) return;
    const now = await request(vmPath);
    if (mine !== attempt) return;
    showVm(now);
    if (!hasConsole(now)) {
      await wait(mine, now, POLL_MS);
      return;
    }
    // The VM is running again, perhaps after a restart.
    if (now.status === 'running' && before.status !== 'running') {
      await connect();
      return;
    }
    before = now;
  }
}

/** Open the websocket of a ticket, and show its stream. */
async function open(mine, ticket) {
  const given = new URL(ticket.url);
  const id = given.pathname.split('/').pop();
  const address = new URL(`../../console/${id}${given.search}`, location.href);
  address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  let opened = false;
  let connected = false;
  let failure = '';
  const socket = new WebSocket(address);
  socket.binaryType = 'arraybuffer';
  socket.addEventListener('open', () => { opened = true; });
  const end = (event) => {
    if (mine === attempt) ended(opened, event, failure);
  };
  socket.addEventListener('close', end);
  // A browser that blocks the websocket may report only an error, without a close event.
  socket.addEventListener('error', () => setTimeout(end, ERROR_MS, { code: 1006, reason: '' }));
  const on = {
    connected(words) {
      connected = true;
      cover('');
      setUsable(true);
      showStatus(`Connected to ${words}`);
    },
    failed(words) {
      failure = words;
      socket.close();
    },
  };
  try {
    view = view.open(socket, ticket.password, on);
    view.scale?.(fits);
  } catch (error) {
    if (socket.readyState === WebSocket.CONNECTING) throw error;
    end({ code: 1006, reason: '' });
    return;
  }
  await pause(OPEN_MS);
  if (mine === attempt && !connected) {
    on.failed(`The console of the guest sent nothing within ${OPEN_MS / 1000} s.`);
  }
}

/** After the websocket has closed: get the VM, and show why. */
async function ended(opened, event, failure) {
  const mine = begin();
  const reason = event.reason ? sentence(event.reason) : '';
  showStatus('Disconnected');
  if (failure) {
    notice('Cannot open the console', failure);
    return;
  }
  try {
    const vm = await request(vmPath);
    if (mine !== attempt) return;
    showVm(vm);
    if (!opened) {
      notice('Cannot open the websocket', 'The service rejected the ticket (valid for one'
        + ' connection within 40 seconds), or a proxy between this browser and the service does'
        + ' not support websockets.');
    } else if (!hasConsole(vm)) {
      await wait(mine, vm, POLL_MS);
    } else {
      notice(event.code === POLICY_VIOLATION ? 'The service closed the connection'
        : 'Disconnected',
      reason || `The connection was closed without a reason (code ${event.code}).`);
      await follow(mine, vm);
    }
  } catch (error) {
    if (mine !== attempt) return;
    if (error.code === 'NETWORK') {
      notice('The service is unreachable', `${reason} ${error.message}`.trim());
    } else {
      explain(error);
    }
  }
}

// Buttons

function change(name) {
  if (name === kind) return;
  kind = name;
  showKind();
  connect();
}

async function paste(text) {
  const mine = attempt;
  const plain = text.replaceAll('\r\n', '\n').replaceAll('\r', '\n');
  if (!plain || view === null) return;
  at('paste').disabled = true;
  try {
    view.focus();
    const left = await view.type(plain, (done, all) => {
      if (mine === attempt) showStatus(`Pasting: ${done} of ${all}`);
    });
    if (mine !== attempt) return;
    showStatus(left.size === 0 ? 'Text pasted'
      : `Text pasted, except for characters that a US keyboard lacks: ${[...left].join(' ')}`);
  } catch (error) {
    if (mine === attempt) showStatus(`Paste interrupted: ${error.message}`);
  } finally {
    if (mine === attempt) at('paste').disabled = false;
  }
}

at('screen').addEventListener('click', () => change('screen'));
at('serial').addEventListener('click', () => change('serial'));
at('again').addEventListener('click', connect);
at('notice-again').addEventListener('click', connect);
at('notice-start').addEventListener('click', async () => {
  at('notice-start').disabled = true;
  try {
    await request(`${vmPath}/start`, 'POST');
    at('notice-start').hidden = true;
    showStatus('Starting the VM');
    lookAgain();
  } catch (error) {
    at('notice-text').textContent = error.code === 'FORBIDDEN'
      ? 'The role of this token is viewer. Starting a VM requires operator or admin.'
      : error.message;
  } finally {
    at('notice-start').disabled = false;
  }
});
at('forget').addEventListener('click', () => {
  begin();
  requestToken('The token was deleted from this tab. The console requires an API token.');
});
at('keys').addEventListener('click', () => {
  view?.pressCtrlAltDel();
  view?.focus();
  showStatus('Sent Ctrl-Alt-Del to the guest');
});
at('scale').addEventListener('click', () => {
  fits = !fits;
  at('scale').setAttribute('aria-pressed', String(fits));
  view?.scale?.(fits);
});
at('full').addEventListener('click', async () => {
  try {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await document.documentElement.requestFullscreen();
    view?.focus();
  } catch {
    showStatus('This browser does not allow full screen');
  }
});
document.addEventListener('fullscreenchange', () => {
  at('full').textContent = document.fullscreenElement ? 'Exit full screen' : 'Full screen';
});
at('paste').addEventListener('click', () => {
  at('paste-hint').textContent = kind === 'serial'
    ? 'The text is sent unchanged to the serial console.'
    : 'The text is typed on the guest\'s keyboard, so only characters of a US keyboard are sent.';
  at('paste-text').value = '';
  at('paste-box').returnValue = '';
  at('paste-box').showModal();
});
at('paste-box').addEventListener('close', () => {
  const text = at('paste-box').returnValue === 'send' ? at('paste-text').value : '';
  at('paste-text').value = '';
  paste(text);
});
at('login').addEventListener('submit', (event) => {
  event.preventDefault();
  if (at('login').hidden) return; // a second Enter, before the focus has left the form
  const text = at('token').value.trim();
  at('token').value = '';
  if (!/^[\x21-\x7e]+$/.test(text)) {
    requestToken('A token contains no spaces or special characters. Enter another one.');
    return;
  }
  remember(text);
  connect();
});
// The console receives every key, even Tab; this one returns the focus to the buttons.
at('stage').addEventListener('keydown', (event) => {
  if (!(event.ctrlKey && event.altKey && event.code === 'KeyG')) return;
  event.preventDefault();
  event.stopPropagation();
  view?.releaseModifiers?.();
  at(kind).focus();
}, { capture: true });

if (vmName) at('name').textContent = vmName;
at('forget').hidden = !token;
showKind();
connect();
