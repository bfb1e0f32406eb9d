// The guest's screen: noVNC over a websocket.

import Keyboard from './novnc/core/input/keyboard.js';
import RFB from './novnc/core/rfb.js';
import { keyOf, strokesOf } from './keyboard.js';

// QEMU processes a key every 10 ms, queues some hundred keys, and drops the rest.
const STROKE_MS = 12;

const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

/** Keep the keys that are pressed in `box`, until `open` shows the screen there. */
export function prepare(box) {
  const keyboard = new Keyboard(box);
  const kept = [];
  keyboard.onkeyevent = (keysym, code, down) => { kept.push([keysym, code, down]); };
  keyboard.grab();
  const focus = () => box.focus({ preventScroll: true });
  focus();
  return {
    focus,
    close: () => keyboard.ungrab(),
    open: (socket, password, on) => openScreen(box, socket, password, on, { keyboard, kept }),
  };
}

/**
 * Show the screen in `box`; call on.connected(words) and on.failed(words).
 *
 * Then press the keys that were kept. The keyboard keeps further ones until that is done, so that
 * they stay in order; when it is released, it releases the keys that are still down.
 */
function openScreen(box, socket, password, on, { keyboard, kept }) {
  const rfb = new RFB(box, socket, { credentials: password === null ? {} : { password } });
  let open = false;
  rfb.background = '#000';
  rfb.addEventListener('connect', () => {
    open = true;
    const canvas = box.querySelector('canvas');
    canvas.setAttribute('aria-label', 'Screen of the guest');
    canvas.setAttribute('role', 'img');
    on.connected('the screen');
    pressKept().then(() => rfb.focus({ preventScroll: true }));
  });
  rfb.addEventListener('disconnect', () => {
    open = false;
    keyboard.ungrab();
  });
  async function pressKept() {
    while (open && kept.length > 0) {
      rfb.sendKey(...kept.shift());
      await pause(STROKE_MS);
    }
    keyboard.ungrab();
    for (const stroke of kept.splice(0)) rfb.sendKey(...stroke);
  }
  rfb.addEventListener('securityfailure', (event) => {
    on.failed(`The VNC server rejected the console password (${event.detail.reason
      ?? 'no reason reported'}). Passwords expire quickly: reconnect for a new one.`);
  });
  rfb.addEventListener('credentialsrequired', () => {
    on.failed('The VNC server requires a password, but the service has set none.');
  });
  return {
    close: () => rfb.disconnect(),
    focus: () => rfb.focus({ preventScroll: true }),
    pressCtrlAltDel: () => rfb.sendCtrlAltDel(),
    scale: (fits) => { rfb.scaleViewport = fits; },

    /** Release Ctrl and Alt, since the guest does not receive their release. */
    releaseModifiers() {
      rfb.sendKey(0xffe3, 'ControlLeft', false);
      rfb.sendKey(0xffe9, 'AltLeft', false);
    },

    /** Type text on the guest's keyboard; return the characters that no US key types. */
    async type(text, progress) {
      const left = new Set();
      const characters = [...text];
      for (const [count, character] of characters.entries()) {
        const key = keyOf(character);
        if (!open) throw new Error(`disconnected after ${count} characters`);
        if (key === undefined) {
          left.add(character);
          continue;
        }
        const strokes = strokesOf(key);
        for (const stroke of strokes) rfb.sendKey(...stroke);
        await pause(STROKE_MS * strokes.length);
        progress(count + 1, characters.length);
      }
      return left;
    },
  };
}
