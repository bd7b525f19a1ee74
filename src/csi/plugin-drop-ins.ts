/**
 * CSI plugins registered by a file: `/etc/berth/csi.d/NAME.toml` with one key, `socket = "unix:///path/of/csi.sock"`.
 * For plugins whose socket lies where it is, outside the plugin directory. A bad file never hides the others.
 */
import { globSync, readFileSync } from 'node:fs';
import type { Logger } from 'pino';
import { parse } from 'smol-toml';
import { z } from 'zod';

const dropInSchema: z.ZodType<{ socket: string }> = z.strictObject({
  socket: z.string().regex(/^unix:\/\/\/.+/, 'must be unix:///path/of/socket'),
});

/** Socket paths of all files in `dir` that can be read, in byte order of their names; the others are logged. */
export function readPluginDropIns(dir: string, log: Logger): string[] {
  return globSync('*.toml', { cwd: dir })
    .sort()
    .flatMap((name) => {
      const file = `${dir}/${name}`;
      try {
        return [dropInSchema.parse(parse(readFileSync(file, 'utf8'))).socket.replace(/^unix:\/\//, '')];
      } catch (error) {
        log.error({ file, err: error }, 'CSI plugin file is not understood');
        return [];
      }
    });
}
