/** What takes part in the bench: one way to run a container on a bridge network from nothing to nothing. */

/** One full lifecycle. */
export interface Lifecycle {
  /** From the request until everything is given back. */
  readonly totalMs: number;
  /** Parts of it, where the contestant can tell them apart. */
  readonly stepsMs?: Readonly<Record<string, number>>;
  /** What the container wrote. */
  readonly output: string;
}

export interface Contestant {
  /** "raw sequence", a row of the table. */
  readonly name: string;
  /** Versions of what it runs, for the record. */
  readonly versions: Readonly<Record<string, string>>;
  /** Runs `command` in a fresh container of the bench's image and removes everything. Calls may overlap. */
  run(command: readonly string[]): Promise<Lifecycle>;
  /** Ends what it started and removes what it made. */
  close(): Promise<void>;
}

/** A contestant that cannot take part here, and why. */
export interface Absent {
  readonly name: string;
  readonly reason: string;
}
