// The guest's serial console: xterm.js over a websocket that carries its bytes.

import { Terminal } from './xterm/xterm.mjs';
import { FitAddon } from './xterm/addon-fit.mjs';

const PIECE = 1024;
const PIECE_MS = 20;

const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

/** Show a terminal in `box`, and keep what is typed until `open` connects it. */
export function prepare(box) {
  const frame = document.createElement('div');
  frame.className = 'terminal-box';
  box.append(frame);
  const terminal = new Terminal({
    cursorBlink: true,
    fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace',
    scrollback: 5000,
    theme: { background: '#000000' },
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  terminal.open(frame);
  fit.fit();
  const observer = new ResizeObserver(() => fit.fit());
  observer.observe(frame);

  const encoder = new TextEncoder();
  const kept = [];
  let socket = null;
  const send = (bytes) => {
    if (socket === null || socket.readyState === WebSocket.CONNECTING) kept.push(bytes);
    else if (socket.readyState === WebSocket.OPEN) socket.send(bytes);
  };
  terminal.onData((text) => send(encoder.encode(text)));
  // Mouse reports in the old encoding are bytes, not text.
  terminal.onBinary((text) => send(Uint8Array.from(text, (character) => character.charCodeAt(0))));
  terminal.focus();

  const view = {
    focus: () => terminal.focus(),

    /** Connect the terminal to a websocket; call on.connected(words). */
    open(opening, _password, on) {
      socket = opening;
      // xterm decodes UTF-8 across writes, since a character may be split between two frames.
      socket.addEventListener('message', (event) => terminal.write(new Uint8Array(event.data)));
      const opened = () => {
        for (const bytes of kept.splice(0)) send(bytes);
        on.connected('the serial console; press Enter if nothing appears');
      };
      if (socket.readyState === WebSocket.OPEN) opened();
      else socket.addEventListener('open', opened);
      return view;
    },

    /** Close the terminal and its websocket. */
    close() {
      observer.disconnect();
      terminal.dispose();
      frame.remove();
      socket?.close();
    },

    /** Send text as if it were typed; no character is left out. */
    async type(text, progress) {
      const bytes = encoder.encode(text.replaceAll('\n', '\r'));
      for (let start = 0; start < bytes.length; start += PIECE) {
        if (socket.readyState !== WebSocket.OPEN) {
          throw new Error(`disconnected after ${start} bytes`);
        }
        send(bytes.subarray(start, start + PIECE));
        progress(Math.min(start + PIECE, bytes.length), bytes.length);
        await pause(PIECE_MS);
      }
      return new Set();
    },
  };
  return view;
}
