/**
 * The user a process runs as, as people write it: "uid[:gid]" or "name[:group]". The one parser for requests, image
 * configurations and account files, so that no place reads a number in its own way and wraps it round to 0.
 */
import { invalid } from './errors.ts';

/** Largest uid and gid: 2^31 - 2, since some programs read them as signed and -1 means "no change". */
export const MAX_ACCOUNT_ID: number = 2 ** 31 - 2;

const DECIMAL = /^(0|[1-9][0-9]{0,9})$/;
const ACCOUNT_NAME = /^[a-zA-Z_][a-zA-Z0-9_.-]{0,254}\$?$/;

/** A user and perhaps a group: numbers as numbers, names as text. */
export interface Account {
  readonly user: number | string;
  readonly group?: number | string;
}

/** A uid or gid in plain decimal, 0 to {@link MAX_ACCOUNT_ID}; undefined for anything else. */
export function parseAccountId(text: string): number | undefined {
  if (!DECIMAL.test(text)) return undefined;
  const id = Number(text);
  return id <= MAX_ACCOUNT_ID ? id : undefined;
}

/**
 * Reads "uid[:gid]" or "name[:group]".
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field
 */
export function parseAccount(field: string, text: string): Account {
  const parts = text.split(':');
  const shown = JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
  if (parts.length > 2) throw invalid(field, `${shown} has more than one colon`);
  const [user, group] = parts.map((part) => parseAccountId(part) ?? (ACCOUNT_NAME.test(part) ? part : undefined));
  if (user === undefined || (parts.length === 2 && group === undefined)) {
    throw invalid(field, `${shown} must be uid[:gid] with numbers up to ${MAX_ACCOUNT_ID}, or name[:group]`);
  }
  return group === undefined ? { user } : { user, group };
}
