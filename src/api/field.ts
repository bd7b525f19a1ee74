/** Single fields from the wire: int64 arrives as a decimal string and becomes a safe integer, instants are checked. */
import { invalid } from '../errors.ts';

/** @throws {RuntimeError} INVALID_ARGUMENT beyond 2^53, where numbers lose digits */
export function safeInteger(field: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw invalid(field, `${text.slice(0, 32)} is outside the range of whole numbers`);
  return value;
}

/** The same for a field that may be absent. */
export function optionalInteger(field: string, text: string | undefined): number | undefined {
  return text === undefined ? undefined : safeInteger(field, text);
}

/** A whole number from `min` to `max`; a field that is absent stays so. */
export function boundedInteger(field: string, text: string | undefined, min: number, max: number): number | undefined {
  const value = optionalInteger(field, text);
  if (value !== undefined && (value < min || value > max)) {
    throw invalid(field, `${value} is outside ${min} to ${max}`);
  }
  return value;
}

/** An RFC 3339 instant in its normal form, in UTC; a field that is absent stays so. */
export function instant(field: string, text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(time)) {
    throw invalid(field, `${JSON.stringify(text.slice(0, 64))} is no instant such as "2026-01-31T12:00:00Z"`);
  }
  return new Date(time).toISOString();
}

/** One of the words there are; an empty field is absent. */
export function chosen<T extends string>(field: string, text: string, words: readonly T[]): T | undefined {
  if (text === '') return undefined;
  const found = words.find((word) => word === text);
  if (found !== undefined) return found;
  throw invalid(field, `${JSON.stringify(text.slice(0, 64))} must be one of ${words.join(', ')}`);
}
