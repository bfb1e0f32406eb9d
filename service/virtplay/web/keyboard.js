// Maps characters to keys of a US keyboard, since a guest receives keys, not text.

const RETURN = 0xff0d;
const TAB = 0xff09;
const SHIFT = 0xffe1;

// KeyboardEvent.code of a physical key → its characters without and with Shift.
const KEYS = {
  Backquote: '`~', Minus: '-_', Equal: '=+', BracketLeft: '[{', BracketRight: ']}',
  Backslash: '\\|', Semicolon: ';:', Quote: '\'"', Comma: ',<', Period: '.>', Slash: '/?',
};
[...'1!2@3#4$5%6^7&8*9(0)'].forEach((character, place) => {
  const code = `Digit${'1234567890'[Math.floor(place / 2)]}`;
  KEYS[code] = (KEYS[code] ?? '') + character;
});
for (const letter of 'abcdefghijklmnopqrstuvwxyz') {
  KEYS[`Key${letter.toUpperCase()}`] = letter + letter.toUpperCase();
}

const BY_CHARACTER = new Map([
  [' ', { keysym: 0x20, code: 'Space', shift: false }],
  ['\n', { keysym: RETURN, code: 'Enter', shift: false }],
  ['\t', { keysym: TAB, code: 'Tab', shift: false }],
]);
for (const [code, [plain, shifted]] of Object.entries(KEYS)) {
  BY_CHARACTER.set(plain, { keysym: plain.codePointAt(0), code, shift: false });
  BY_CHARACTER.set(shifted, { keysym: shifted.codePointAt(0), code, shift: true });
}

/** Return the key of a character, {keysym, code, shift}; undefined when no US key types it. */
export function keyOf(character) {
  return BY_CHARACTER.get(character);
}

/** Return all presses and releases, [keysym, code, down], that type one key. */
export function strokesOf(key) {
  const strokes = [[key.keysym, key.code, true], [key.keysym, key.code, false]];
  // An emulated keyboard has no shifted keys, only Shift and another key.
  return key.shift
    ? [[SHIFT, 'ShiftLeft', true], ...strokes, [SHIFT, 'ShiftLeft', false]]
    : strokes;
}
