// The console page: asks for a token, opens the VM's screen or serial console, and says what is
// the matter when it cannot. Text of the API and of people goes on the page as text only.

const TOKEN_KEY = 'virtplay-token';
const LOOK_MS = 2000;
// The list of VMs follows the hosts at intervals: what has just stopped may still be "running".
const STALE_MS = 10_000;
const SERVED = ['running', 'paused', 'pausing', 'resuming', 'stopping', 'restarting', 'updating',
  'restoring'];
const OPEN_MS = 20_000;
const ERROR_MS = 500;
const POLICY_VIOLATION = 1008;

const at = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

// Relative, so that the page also works below a path of somebody's proxy.
const vmId = location.pathname.match(/\/vms\/(vm-[0-9]+)\/console$/)?.[1] ?? '';
const api = new URL('../../api/v1/', location.href);

let token = recall();
let kind = new URLSearchParams(location.search).get('type') === 'serial' ? 'serial' : 'screen';
let view = null;
let fits = true;
// Every attempt has a number: what an older one still awaits is dropped when it comes.
let attempt = 0;

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
    // A browser that keeps nothing asks again at the next visit.
  }
}

/** The data of a GET of the API; Refusal with its code, NETWORK when there is no answer. */
async function ask(path) {
  let answer;
  let body;
  try {
    answer = await fetch(new URL(path, api), {
      headers: { Authorization: `Bearer ${token}` },
      cache: 'no-store',
    });
  } catch {
    throw new Refusal('NETWORK', `No answer from ${location.host}: the service may have ended,`
      + ' or the network is down.');
  }
  try {
    body = await answer.json();
  } catch {
    body = null;
  }
  if (body?.success === true) return body.data;
  if (body?.success === false) {
    throw new Refusal(String(body.error.code), sentence(String(body.error.message)));
  }
  throw new Refusal('NETWORK', `${location.host} answered HTTP ${answer.status}, and not as`
    + ' Virtplay does: a proxy between may be the reason.');
}

function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

// What is shown

function say(words) {
  at('status').textContent = words;
}

function cover(id) {
  for (const card of ['login', 'notice']) at(card).hidden = card !== id;
}

function notice(title, text) {
  at('notice-title').textContent = title;
  at('notice-text').textContent = text;
  cover('notice');
  say(title);
}

function showVm(vm) {
  at('name').textContent = vm.name === vm.id ? vm.id : `${vm.name} (${vm.id})`;
  at('state').textContent = vm.status;
  at('state').dataset.state = vm.status;
  at('state').hidden = false;
  document.title = `${vm.name} - Console`;
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

function askToken(why) {
  remember('');
  at('login-why').textContent = why;
  cover('login');
  say(why);
  at('token').focus();
}

// Connecting

/** End what is open, and begin a new attempt: its number. */
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
  const mine = begin();
  cover('');
  if (!vmId) {
    notice('No such VM', 'This address names no VM: it must be like /vms/vm-001/console.');
    return;
  }
  if (document.body.dataset.packages !== 'installed') {
    notice('The console is not installed', 'The service lacks noVNC and xterm.js. On its machine,'
      + ' in its directory, run "make setup", then start the service again.');
    return;
  }
  if (!token) {
    askToken('The console opens with an API token.');
    return;
  }
  say(`Looking for ${vmId} …`);
  try {
    const vm = await ask(`vms/${vmId}`);
    if (mine !== attempt) return;
    showVm(vm);
    if (!SERVED.includes(vm.status)) {
      await wait(mine, vm, LOOK_MS);
      return;
    }
    say(kind === 'serial' ? 'Opening the serial console …' : 'Opening the screen …');
    const type = kind === 'serial' ? 'serial' : 'vnc';
    const ticket = await ask(`vms/${vmId}/console?type=${type}`);
    if (mine === attempt) await open(mine, ticket);
  } catch (error) {
    if (mine === attempt) explain(error);
  }
}

/** Say why it does not go on, and what will make it. */
function explain(error) {
  const mine = begin();
  switch (error.code) {
    case 'UNAUTHORIZED':
      askToken('This token is wrong, expired or revoked: give another.');
      break;
    case 'FORBIDDEN':
      askToken('This token may only look. The console needs one of an operator or admin.');
      break;
    case 'RATE_LIMITED':
      notice('Too many wrong tokens', error.message);
      break;
    case 'VM_NOT_FOUND':
      notice('VM not found', `There is no VM ${vmId}: it was deleted, or never was.`);
      break;
    case 'VM_ALREADY_STOPPED':
      wait(mine, { status: 'stopped' }, STALE_MS).catch((later) => {
        if (mine === attempt) explain(later);
      });
      break;
    case 'HOST_UNREACHABLE':
      notice('The host cannot be reached', error.message);
      break;
    case 'NETWORK':
      notice('No connection to the service', error.message);
      break;
    default:
      notice('The console cannot be opened',
        error.code ? `${error.message} (${error.code})` : String(error));
  }
}

/** Look at the VM until it has a console, then connect. */
async function wait(mine, vm, milliseconds) {
  const waits = 'This page connects as soon as it runs.';
  let shown = '';
  for (let now = vm; ; now = await ask(`vms/${vmId}`)) {
    if (mine !== attempt) return;
    if (now !== vm) {
      showVm(now);
      if (SERVED.includes(now.status)) {
        await connect();
        return;
      }
    }
    if (shown !== now.status) {
      shown = now.status;
      notice(`The VM is ${shown}`, {
        unreachable: `Its host ${now.host ?? ''} cannot be reached, so nothing is known of it.`
          + ' This page connects as soon as the host answers.',
        error: `${sentence(String(now.error?.message ?? 'unknown'))} ${waits}`,
      }[shown] ?? waits);
    }
    do await pause(milliseconds); while (document.hidden && mine === attempt);
    if (mine !== attempt) return;
  }
}

/** Look at a VM whose stream has ended: what it becomes is known only later. */
async function follow(mine, vm) {
  for (let before = vm; ;) {
    do await pause(LOOK_MS); while (document.hidden && mine === attempt);
    if (mine !== attempt) return;
    const now = await ask(`vms/${vmId}`);
    if (mine !== attempt) return;
    showVm(now);
    if (!SERVED.includes(now.status)) {
      await wait(mine, now, LOOK_MS);
      return;
    }
    // It has come back, from a restart perhaps.
    if (now.status === 'running' && before.status !== 'running') {
      await connect();
      return;
    }
    before = now;
  }
}

/** Open the websocket of a ticket, and show what it carries. */
async function open(mine, ticket) {
  const address = new URL(`../../console/${vmId}${new URL(ticket.url).search}`, location.href);
  address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  // Before the websocket: what it brings first must find its reader.
  const module = await import(kind === 'serial' ? './serial.js' : './screen.js');
  if (mine !== attempt) return;
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
  // A browser that blocks it by itself may tell of the error only; usually the close follows.
  socket.addEventListener('error', () => setTimeout(end, ERROR_MS, { code: 1006, reason: '' }));
  const on = {
    connected(words) {
      connected = true;
      setUsable(true);
      say(`Connected to ${words}`);
    },
    failed(words) {
      failure = words;
      socket.close();
    },
  };
  try {
    if (kind === 'serial') {
      view = module.openSerial(at('stage'), socket, on);
    } else {
      view = module.openScreen(at('stage'), socket, ticket.password, on);
      view.scale(fits);
    }
  } catch (error) {
    if (socket.readyState === WebSocket.CONNECTING) throw error;
    end({ code: 1006, reason: '' });
    return;
  }
  await pause(OPEN_MS);
  if (mine === attempt && !connected) {
    on.failed(`Nothing was heard of the guest's console within ${OPEN_MS / 1000} s.`);
  }
}

/** The websocket has closed: ask the service what has become of the VM, and say it. */
async function ended(opened, event, failure) {
  const mine = begin();
  const reason = event.reason ? sentence(event.reason) : '';
  say('The connection has ended');
  if (failure) {
    notice('The console cannot be opened', failure);
    return;
  }
  try {
    const vm = await ask(`vms/${vmId}`);
    if (mine !== attempt) return;
    showVm(vm);
    if (!opened) {
      notice('The websocket was not opened', 'The service refused the ticket (it is good for one'
        + ' connection within 40 seconds), or something between this browser and the service, such'
        + ' as a proxy, lets no websocket through.');
    } else if (!SERVED.includes(vm.status)) {
      await wait(mine, vm, LOOK_MS);
    } else {
      notice(event.code === POLICY_VIOLATION ? 'The service ended the connection'
        : 'The connection has ended',
      reason || `The stream ended without a reason (code ${event.code}).`);
      await follow(mine, vm);
    }
  } catch (error) {
    if (mine !== attempt) return;
    if (error.code === 'NETWORK') {
      notice('The service has ended', `${reason} ${error.message}`.trim());
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
      if (mine === attempt) say(`Typing: ${done} of ${all}`);
    });
    if (mine !== attempt) return;
    say(left.size === 0 ? 'Typed the text into the guest'
      : `Typed the text, without what no US keyboard has: ${[...left].join(' ')}`);
  } catch (error) {
    if (mine === attempt) say(`The text was not typed to its end: ${error.message}`);
  } finally {
    if (mine === attempt) at('paste').disabled = false;
  }
}

at('screen').addEventListener('click', () => change('screen'));
at('serial').addEventListener('click', () => change('serial'));
at('again').addEventListener('click', connect);
at('notice-again').addEventListener('click', connect);
at('forget').addEventListener('click', () => {
  begin();
  askToken('The token is forgotten. The console opens with an API token.');
});
at('keys').addEventListener('click', () => {
  view?.pressCtrlAltDel();
  view?.focus();
  say('Pressed Ctrl-Alt-Del in the guest');
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
    say('This browser does not allow full screen here');
  }
});
document.addEventListener('fullscreenchange', () => {
  at('full').textContent = document.fullscreenElement ? 'Leave full screen' : 'Full screen';
});
at('paste').addEventListener('click', () => {
  at('paste-hint').textContent = kind === 'serial'
    ? 'The text is sent to the serial console as it is.'
    : 'The text is typed on the guest\'s keyboard: characters of a US keyboard only.';
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
  const text = at('token').value.trim();
  at('token').value = '';
  if (!/^[\x21-\x7e]+$/.test(text)) {
    askToken('A token has no spaces and no special characters: give another.');
    return;
  }
  remember(text);
  connect();
});
// The console takes every key, Tab too: without this the keyboard would not get out again.
at('stage').addEventListener('keydown', (event) => {
  if (!(event.ctrlKey && event.altKey && event.code === 'KeyG')) return;
  event.preventDefault();
  event.stopPropagation();
  view?.releaseModifiers?.();
  at(kind).focus();
}, { capture: true });

if (vmId) at('name').textContent = vmId;
at('forget').hidden = !token;
showKind();
connect();
