/**
 * Where in a JSON text something stands, for messages: the line of a member, or of the first mistake. JSON.parse tells
 * neither of a value that does not fit, nor the place of every mistake. Pure.
 */

/** Values nested deeper than this are not looked into: their line is the one of the value that holds them. */
const MAX_DEPTH = 100;
// biome-ignore lint/suspicious/noControlCharactersInRegex: strings hold none
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"/y;
const SCALAR = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
const SPACE = /[ \t\r\n]*/y;

/** Thrown at the first character that cannot stand where it does. */
class Mistake extends Error {}

/**
 * The line, from 1, of the value at `path` in a text that is JSON: of its nearest ancestor when it is not there, of the
 * last one when a key stands twice, as JSON.parse takes it.
 */
export function lineOf(text: string, path: readonly PropertyKey[]): number {
  return lineAt(text, new Scanner(text, path.map(String)).find());
}

/** The line, from 1, of the first mistake in a text that is not JSON. */
export function lineOfMistake(text: string): number {
  const scanner = new Scanner(text, []);
  scanner.find();
  return lineAt(text, scanner.position);
}

function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split('\n').length;
}

/** Walks a text once and remembers where the value at a path begins. */
class Scanner {
  readonly #text: string;
  readonly #path: readonly string[];
  #found = 0;
  /** How far it came. */
  position = 0;

  constructor(text: string, path: readonly string[]) {
    this.#text = text;
    this.#path = path;
  }

  /** Offset of the value, or of what comes nearest to it. */
  find(): number {
    try {
      this.#value(0, true);
      this.#skip(SPACE);
    } catch (error) {
      if (!(error instanceof Mistake)) throw error;
    }
    return this.#found;
  }

  /** @param onPath the keys down to here are the first `depth` ones of the path */
  #value(depth: number, onPath: boolean): void {
    this.#skip(SPACE);
    if (depth > MAX_DEPTH) throw new Mistake();
    if (onPath) this.#found = this.position;
    const first = this.#text[this.position];
    if (first === '{') this.#members('}', depth, onPath);
    else if (first === '[') this.#members(']', depth, onPath);
    else if (!this.#skip(STRING) && !this.#skip(SCALAR)) throw new Mistake();
  }

  /** What stands between the brackets of an object or a list. */
  #members(end: '}' | ']', depth: number, onPath: boolean): void {
    this.position += 1;
    if (this.#take(end)) return;
    for (let index = 0; ; index += 1) {
      const key = end === '}' ? this.#key() : String(index);
      this.#value(depth + 1, onPath && depth < this.#path.length && this.#path[depth] === key);
      if (this.#take(end)) return;
      if (!this.#take(',')) throw new Mistake();
    }
  }

  #key(): string {
    this.#skip(SPACE);
    const start = this.position;
    if (!this.#skip(STRING)) throw new Mistake();
    const key = String(JSON.parse(this.#text.slice(start, this.position)));
    if (!this.#take(':')) throw new Mistake();
    return key;
  }

  /** Passes one character, with the white space before it. */
  #take(character: string): boolean {
    this.#skip(SPACE);
    if (this.#text[this.position] !== character) return false;
    this.position += 1;
    return true;
  }

  /** Passes what the pattern matches here. */
  #skip(pattern: RegExp): boolean {
    pattern.lastIndex = this.position;
    if (!pattern.test(this.#text)) return false;
    this.position = pattern.lastIndex;
    return true;
  }
}
