/**
 * The keys of a drop-in file by which Berth starts the plugin itself. A file that has one of them need not name a socket:
 * Berth chooses it.
 */

/** What a drop-in file says about starting the plugin; empty when somebody else starts it. */
export type Supervision = Readonly<Record<never, never>>;

/** Their schemas, part of the drop-in file's (plugin-drop-ins.ts). */
export const supervisionKeys: Readonly<Record<never, never>> = {};

/** The part of a checked drop-in file that is about starting the plugin; undefined when it has none. */
export function supervisionOf(_file: object): Supervision | undefined {
  return undefined;
}
