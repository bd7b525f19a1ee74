/**
 * CSI plugins registered by a file of the configuration directory, `NAME.toml`. A plugin has one socket, several, or one
 * for each of its parts:
 *
 *   name = "some.csi.example"                   optional; a plugin of another name is refused
 *   socket = "unix:///run/some/csi.sock"        serves whatever it serves
 *   sockets = ["unix:///a.sock", "/b.sock"]     several of one plugin
 *   controller = "unix:///run/some/ctl.sock"    used for the Controller and GroupController services only
 *   node = "unix:///run/some/node.sock"         used for the Node service only
 *
 * A file may have Berth start the plugin, too (plugin-supervision.ts). A bad file never hides the others.
 */
import { globSync, readFileSync, statSync } from 'node:fs';
import { parse } from 'smol-toml';
import * as z from 'zod';
import { invalid, RuntimeError } from '../errors.ts';
import { checkSocketPath, type PluginRegistration, type PluginSocket } from './plugin-registration.ts';
import { type Supervision, supervisionKeys, supervisionOf } from './plugin-supervision.ts';
import { checkPluginName } from './protocol.ts';

/** What one file says. */
export interface PluginDropIn {
  readonly file: string;
  readonly name?: string;
  /** Empty only when Berth starts the plugin. */
  readonly sockets: readonly PluginSocket[];
  readonly supervision?: Supervision;
}

/** A file nobody can use. */
export interface BadDropIn {
  readonly file: string;
  readonly reason: string;
}

const MAX_FILE_BYTES = 65_536;

const dropInSchema = z.strictObject({
  name: z.string().optional(),
  socket: z.string().optional(),
  sockets: z.array(z.string()).max(8).optional(),
  controller: z.string().optional(),
  node: z.string().optional(),
  ...supervisionKeys,
});

/**
 * The meaning of a file's text.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the key
 */
export function parsePluginDropIn(file: string, text: string): PluginDropIn {
  const parsed = dropInSchema.safeParse(tables(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const key = issue?.code === 'unrecognized_keys' ? issue.keys.join(', ') : issue?.path.join('.');
    throw invalid(key === undefined || key === '' ? 'file' : key, issue?.message ?? 'not understood');
  }
  const { name, socket, sockets = [], controller, node } = parsed.data;
  const supervision = supervisionOf(parsed.data);
  if (supervision?.part !== undefined && name === undefined) {
    throw invalid('part', 'parts are put together by the name they give themselves: say name = "...", too');
  }
  const all: PluginSocket[] = [
    ...(socket === undefined ? [] : [{ path: checkSocketPath('socket', socket) }]),
    ...sockets.map((address) => ({ path: checkSocketPath('sockets', address) })),
    ...(controller === undefined
      ? []
      : [{ path: checkSocketPath('controller', controller), role: 'controller' } as const]),
    ...(node === undefined ? [] : [{ path: checkSocketPath('node', node), role: 'node' } as const]),
  ];
  if (supervision !== undefined && all.length > 0) {
    throw invalid('command', 'a plugin that Berth starts gets its socket from Berth: name no socket beside it');
  }
  if (all.length === 0 && supervision === undefined) {
    throw invalid(
      'socket',
      'the file names no socket; write socket = "unix:///path/of/csi.sock", or command = [...] to have Berth start it',
    );
  }
  const twice = all.find(({ path }, index) => all.findIndex((other) => other.path === path) !== index);
  if (twice !== undefined) throw invalid('sockets', `${twice.path} is named twice; socket = "..." serves every part`);
  return {
    file,
    ...(name === undefined ? {} : { name: checkPluginName('name', name) }),
    sockets: all,
    ...(supervision === undefined ? {} : { supervision }),
  };
}

function tables(text: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    const [line = 'not TOML'] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw new RuntimeError('INVALID_ARGUMENT', `file: ${line}`, { cause: error });
  }
}

/** The registration a file asks for. */
export function dropInRegistration({ file, name, sockets }: PluginDropIn): PluginRegistration {
  return { key: `file:${file}`, source: 'file', origin: file, ...(name === undefined ? {} : { name }), sockets };
}

/** What all files of a directory say. */
export interface PluginDropIns {
  readonly good: readonly PluginDropIn[];
  readonly bad: readonly BadDropIn[];
}

/** All files in `dir`, in byte order of their names; the bad ones apart. */
export function readPluginDropIns(dir: string): PluginDropIns {
  const good: PluginDropIn[] = [];
  const bad: BadDropIn[] = [];
  for (const name of globSync('*.toml', { cwd: dir }).sort()) {
    const file = `${dir}/${name}`;
    try {
      good.push(parsePluginDropIn(file, textOf(file)));
    } catch (error) {
      bad.push({ file, reason: RuntimeError.from(error, 'read').message });
    }
  }
  return { good, bad };
}

/** Reads only what cannot block: a pipe of that name would hold up the daemon. */
function textOf(file: string): string {
  const stats = statSync(file);
  if (!stats.isFile()) throw invalid('file', 'it is no regular file');
  if (stats.size > MAX_FILE_BYTES) throw invalid('file', `it has ${stats.size} bytes, at most ${MAX_FILE_BYTES}`);
  return readFileSync(file, 'utf8');
}
