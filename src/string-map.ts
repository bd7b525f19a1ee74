/**
 * Text by text: labels, parameters, contexts. A key may be any text, "__proto__" included, which a schema of records
 * would drop without a word.
 */
import * as z from 'zod';

export type StringMap = Readonly<Record<string, string>>;

/** Checks that an object of JSON maps text to text, and keeps it as it is. */
export const stringMap: z.ZodType<StringMap> = z.custom<StringMap>(
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((entry) => typeof entry === 'string'),
  'must map text to text',
);
