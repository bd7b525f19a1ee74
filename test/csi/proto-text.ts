/** Reads a .proto file of the plain kind: messages, oneofs, maps, enums, services and options, no more. For comparison. */

export interface ProtoField {
  readonly name: string;
  readonly number: number;
  readonly label: 'singular' | 'repeated' | 'map';
  readonly type: string;
  readonly keyType?: string;
  readonly oneof?: string;
  /** Names of the options that are set. */
  readonly options: readonly string[];
}

export interface ProtoMethod {
  readonly request: string;
  readonly response: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
}

export interface ProtoText {
  /** By full name below the package: "VolumeCapability.AccessMode". */
  readonly messages: Map<string, ProtoField[]>;
  readonly enums: Map<string, Map<string, number>>;
  readonly services: Map<string, Map<string, ProtoMethod>>;
}

/** Parses the text of a file. @throws when it holds what this reader does not know */
export function parseProto(text: string): ProtoText {
  const tokens = text.replace(/\/\/.*$/gm, '').match(/"[^"]*"|[\w.]+|[^\s\w]/g) ?? [];
  return new Reader(tokens).read();
}

class Reader {
  readonly #tokens: readonly string[];
  #at = 0;
  readonly #result: ProtoText = { messages: new Map(), enums: new Map(), services: new Map() };

  constructor(tokens: readonly string[]) {
    this.#tokens = tokens;
  }

  read(): ProtoText {
    while (this.#at < this.#tokens.length) {
      const word = this.#next();
      if (word === 'message') this.#message('');
      else if (word === 'enum') this.#enum('');
      else if (word === 'service') this.#service();
      else if (word === 'extend') this.#block();
      else this.#until(';');
    }
    return this.#result;
  }

  #message(outer: string): void {
    const name = outer + this.#next();
    const fields: ProtoField[] = [];
    this.#result.messages.set(name, fields);
    this.#expect('{');
    this.#members(`${name}.`, fields, undefined);
  }

  #members(scope: string, fields: ProtoField[], oneof: string | undefined): void {
    for (let word = this.#next(); word !== '}'; word = this.#next()) {
      if (word === 'message') this.#message(scope);
      else if (word === 'enum') this.#enum(scope);
      else if (word === 'option' || word === 'reserved') this.#until(';');
      else if (word === 'oneof') {
        const name = this.#next();
        this.#expect('{');
        this.#members(scope, fields, name);
      } else fields.push({ ...this.#field(word), ...(oneof === undefined ? {} : { oneof }) });
    }
  }

  #field(first: string): ProtoField {
    if (first === 'map') {
      this.#expect('<');
      const keyType = this.#next();
      this.#expect(',');
      const type = this.#next();
      this.#expect('>');
      return { label: 'map', keyType, type, ...this.#nameAndNumber() };
    }
    if (first === 'repeated') return { label: 'repeated', type: this.#next(), ...this.#nameAndNumber() };
    return { label: 'singular', type: first, ...this.#nameAndNumber() };
  }

  #nameAndNumber(): { name: string; number: number; options: string[] } {
    const name = this.#next();
    this.#expect('=');
    const number = Number(this.#next());
    const rest = this.#until(';');
    const options = rest.filter((token, index) => rest[index - 1] === '(' && token !== 'false');
    return { name, number, options };
  }

  #enum(outer: string): void {
    const values = new Map<string, number>();
    this.#result.enums.set(outer + this.#next(), values);
    this.#expect('{');
    for (let word = this.#next(); word !== '}'; word = this.#next()) {
      if (word === 'option' || word === 'reserved') this.#until(';');
      else {
        const { name, number } = this.#enumValue(word);
        values.set(name, number);
      }
    }
  }

  #enumValue(name: string): { name: string; number: number } {
    this.#expect('=');
    const number = Number(this.#next());
    this.#until(';');
    return { name, number };
  }

  #service(): void {
    const methods = new Map<string, ProtoMethod>();
    this.#result.services.set(this.#next(), methods);
    this.#expect('{');
    for (let word = this.#next(); word !== '}'; word = this.#next()) {
      if (word === 'option') this.#until(';');
      if (word !== 'rpc') continue;
      const name = this.#next();
      const [request, requestStream] = this.#argument();
      this.#expect('returns');
      const [response, responseStream] = this.#argument();
      methods.set(name, { request, response, requestStream, responseStream });
      const end = this.#next();
      if (end === '{') {
        this.#at -= 1;
        this.#block();
      } else if (end !== ';') throw new Error(`${name}: ${end} is not understood`);
    }
  }

  #argument(): [string, boolean] {
    this.#expect('(');
    const first = this.#next();
    const type = first === 'stream' ? this.#next() : first;
    this.#expect(')');
    return [type, first === 'stream'];
  }

  /** Passes over everything up to the end of the next block. */
  #block(): void {
    this.#until('{');
    for (let depth = 1; depth > 0; ) {
      const word = this.#next();
      if (word === '{') depth += 1;
      if (word === '}') depth -= 1;
    }
  }

  #until(end: string): string[] {
    const passed: string[] = [];
    for (let word = this.#next(); word !== end; word = this.#next()) passed.push(word);
    return passed;
  }

  #expect(token: string): void {
    const found = this.#next();
    if (found !== token) throw new Error(`"${token}" is expected, "${found}" found (token ${this.#at})`);
  }

  #next(): string {
    const token = this.#tokens[this.#at];
    if (token === undefined) throw new Error('the file ends too early');
    this.#at += 1;
    return token;
  }
}
