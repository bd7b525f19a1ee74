/** Berth's programs as tests start them: the source, or the built program when BERTH_TEST_DIST is set. */
import { fileURLToPath } from 'node:url';

const IS_BUILT = (process.env['BERTH_TEST_DIST'] ?? '') !== '';

/** File of a program by its name below `src`: "csi/local/main". */
export function programFile(name: string): string {
  const file = IS_BUILT ? `../../dist/${name}.js` : `../../src/${name}.ts`;
  return fileURLToPath(new URL(file, import.meta.url));
}
