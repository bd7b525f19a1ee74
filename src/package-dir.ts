/**
 * Where the package's files lie, whatever was bundled into which file: the programs are TypeScript below `src` or
 * JavaScript below `dist`, both beside package.json.
 */
import { join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const SELF = fileURLToPath(import.meta.url);
const IS_BUILT = SELF.endsWith('.js');
const TREE = IS_BUILT ? 'dist' : 'src';

/** The directory that holds package.json. */
export const PACKAGE_DIR: string = SELF.slice(0, SELF.lastIndexOf(`${sep}${TREE}${sep}`));

/** File of one of Berth's own programs: "csi/local/main". */
export function programFile(name: string): string {
  return join(PACKAGE_DIR, TREE, `${name}.${IS_BUILT ? 'js' : 'ts'}`);
}
