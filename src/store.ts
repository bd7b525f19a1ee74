/**
 * Durable records: containers, attachments, volumes. A Store is a keyed table; the Database holds all of them in one
 * SQLite file (WAL; a write is on disk when the call returns, unless less was asked for). The store knows keys and bytes,
 * never their meaning: a codec of the caller turns a JSON value into a typed one.
 *
 *   records(kind, key, value)   primary key (kind, key), value is JSON text
 *   meta(schema_version)        migrated forward, refused when newer
 *
 * A record that is present but does not decode is DATA_LOSS: it is kept where it is, listed under `damaged`, and never
 * taken for absent.
 */
import { chmodSync, closeSync, existsSync, openSync, statSync } from 'node:fs';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { RuntimeError } from './errors.ts';

/**
 * What a record must outlive when the call returns. "power": a power failure; due before every effect that outlives one
 * (an address lease on disk, a call to storage elsewhere) and for what a user was told. "process": the end of the daemon
 * at any moment; enough for facts about processes, mounts and namespaces, which a power failure ends as well. Records
 * reach the disk in the order in which they were written.
 */
export type Durability = 'power' | 'process';

/** A keyed table of durable records. Durability is "power" unless given. */
export interface Store<T> {
  /** @throws {RuntimeError} ALREADY_EXISTS when the key is taken */
  create(key: string, value: T, durability?: Durability): void;
  /** Durable when it returns. */
  write(key: string, value: T, durability?: Durability): void;
  /** @throws {RuntimeError} DATA_LOSS when the record is present but does not decode */
  read(key: string): T | undefined;
  /** Succeeds for unknown keys. */
  remove(key: string, durability?: Durability): void;
  /** Every record that decodes, by key. */
  entries(): ReadonlyMap<string, T>;
  /** Keys of records that are present but do not decode, with the reason. */
  damaged(): ReadonlyMap<string, string>;
}

/** Turns a decoded JSON value into a typed record; throws when it does not fit. */
export type Decode<T> = (value: unknown) => T;

const SCHEMA_VERSION = 1;

/** One SQLite file holding every store of a daemon. */
export class Database {
  readonly #db: DatabaseSync;
  readonly #path: string;
  #demanded: Durability = 'power';

  /**
   * Opens or creates the file with mode 0600.
   * @throws {RuntimeError} DATA_LOSS when the file is corrupt, FAILED_PRECONDITION when a newer Berth wrote it or
   * another user owns it
   */
  constructor(path: string) {
    this.#path = path;
    const fresh = !existsSync(path);
    if (fresh) closeSync(openSync(path, 'wx', 0o600));
    else refuseForeignOwner(path);
    chmodSync(path, 0o600);
    try {
      this.#db = new DatabaseSync(path, { timeout: 5000 });
      this.#db.exec('PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;');
      this.#check();
      this.#migrate();
    } catch (error) {
      if (error instanceof RuntimeError) throw error;
      throw new RuntimeError(
        'DATA_LOSS',
        `database ${path} cannot be opened: restore it from a backup or move it away`,
        {
          cause: error,
        },
      );
    }
  }

  /** The store of one kind of record. */
  store<T>(kind: string, decode: Decode<T>): Store<T> {
    return new SqliteStore(this.#db, kind, decode, (durability) => this.#demand(durability));
  }

  close(): void {
    this.#db.close();
  }

  /** How far the next commits go. A commit that syncs takes all earlier ones with it. */
  #demand(durability: Durability): void {
    if (durability === this.#demanded) return;
    this.#db.exec(`PRAGMA synchronous=${durability === 'power' ? 'FULL' : 'NORMAL'}`);
    this.#demanded = durability;
  }

  #check(): void {
    const row = this.#db.prepare('PRAGMA quick_check').get();
    const verdict = row === undefined ? 'no answer' : String(Object.values(row)[0]);
    if (verdict !== 'ok') throw new RuntimeError('DATA_LOSS', `database ${this.#path} is corrupt: ${verdict}`);
  }

  #migrate(): void {
    const version = Number(Object.values(this.#db.prepare('PRAGMA user_version').get() ?? {})[0] ?? 0);
    if (version > SCHEMA_VERSION) {
      throw new RuntimeError(
        'FAILED_PRECONDITION',
        `database ${this.#path} has schema ${version}, this berthd knows ${SCHEMA_VERSION}: use the newer berthd`,
      );
    }
    if (version === SCHEMA_VERSION) return;
    this.#db.exec(`BEGIN;
      CREATE TABLE IF NOT EXISTS records (
        kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)
      ) WITHOUT ROWID;
      PRAGMA user_version=${SCHEMA_VERSION};
      COMMIT;`);
  }
}

function refuseForeignOwner(path: string): void {
  const owner = statSync(path).uid;
  const self = process.getuid?.() ?? 0;
  if (owner !== self) {
    throw new RuntimeError('FAILED_PRECONDITION', `database ${path} belongs to uid ${owner}, not to uid ${self}`);
  }
}

/** A store over one kind of rows. Decoded records are kept in memory: reads never touch the disk. */
class SqliteStore<T> implements Store<T> {
  readonly #kind: string;
  readonly #decode: Decode<T>;
  readonly #values = new Map<string, T>();
  readonly #damaged = new Map<string, string>();
  readonly #insert: StatementSync;
  readonly #upsert: StatementSync;
  readonly #delete: StatementSync;
  readonly #demand: (durability: Durability) => void;

  constructor(db: DatabaseSync, kind: string, decode: Decode<T>, demand: (durability: Durability) => void) {
    this.#demand = demand;
    this.#kind = kind;
    this.#decode = decode;
    this.#insert = db.prepare('INSERT INTO records (kind, key, value) VALUES (?, ?, ?)');
    this.#upsert = db.prepare(
      'INSERT INTO records (kind, key, value) VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value',
    );
    this.#delete = db.prepare('DELETE FROM records WHERE kind = ? AND key = ?');
    for (const row of db.prepare('SELECT key, value FROM records WHERE kind = ? ORDER BY key').all(kind)) {
      this.#load(String(row['key']), String(row['value']));
    }
  }

  create(key: string, value: T, durability: Durability = 'power'): void {
    if (this.#values.has(key) || this.#damaged.has(key)) {
      throw new RuntimeError('ALREADY_EXISTS', `${this.#kind} record ${key} exists`);
    }
    this.#demand(durability);
    this.#insert.run(this.#kind, key, JSON.stringify(value));
    this.#values.set(key, value);
  }

  write(key: string, value: T, durability: Durability = 'power'): void {
    this.#demand(durability);
    this.#upsert.run(this.#kind, key, JSON.stringify(value));
    this.#damaged.delete(key);
    this.#values.set(key, value);
  }

  read(key: string): T | undefined {
    const reason = this.#damaged.get(key);
    if (reason !== undefined) {
      throw new RuntimeError('DATA_LOSS', `${this.#kind} record ${key} does not decode: ${reason}`);
    }
    return this.#values.get(key);
  }

  remove(key: string, durability: Durability = 'power'): void {
    this.#demand(durability);
    this.#delete.run(this.#kind, key);
    this.#values.delete(key);
    this.#damaged.delete(key);
  }

  entries(): ReadonlyMap<string, T> {
    return this.#values;
  }

  damaged(): ReadonlyMap<string, string> {
    return this.#damaged;
  }

  #load(key: string, text: string): void {
    try {
      this.#values.set(key, this.#decode(JSON.parse(text)));
    } catch (error) {
      this.#damaged.set(key, error instanceof Error ? error.message : String(error));
    }
  }
}

/** A store without a disk, for tests and for data that may be lost. */
export class MemoryStore<T> implements Store<T> {
  readonly #values = new Map<string, T>();

  create(key: string, value: T): void {
    if (this.#values.has(key)) throw new RuntimeError('ALREADY_EXISTS', `record ${key} exists`);
    this.#values.set(key, value);
  }

  write(key: string, value: T): void {
    this.#values.set(key, value);
  }

  read(key: string): T | undefined {
    return this.#values.get(key);
  }

  remove(key: string): void {
    this.#values.delete(key);
  }

  entries(): ReadonlyMap<string, T> {
    return this.#values;
  }

  damaged(): ReadonlyMap<string, string> {
    return new Map();
  }
}
