/**
 * The thread behind system-calls.ts: one request, one answer, in order. A thread may enter another network namespace
 * without the rest of the process noticing; it always comes back, or ends.
 */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import { parentPort } from 'node:worker_threads';
import { systemCode } from './errors.ts';
import type { SystemCall, SystemCallAnswer, SystemCallRequest } from './system-calls.ts';

/** The C library by the name it has with glibc. */
const LIBRARY = 'libc.so.6';
/** Numbers of linux/mount.h, linux/sched.h, linux/sockios.h, linux/if.h. */
const MS_NODEV = 4n;
const MS_BIND = 4096n;
const MNT_DETACH = 2;
const CLONE_NEWNET = 0x4000_0000;
const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 2 | 0o200_0000;
const SIOCGIFFLAGS = 0x8913n;
const SIOCSIFFLAGS = 0x8914n;
const IFF_UP = 1;
/** struct ifreq: a name of 16 bytes, then the flags. */
const IFREQ_BYTES = 40;
const IFREQ_FLAGS = 16;
/** This thread's own: each resolves where it is opened. */
const OWN_NAMESPACE = '/proc/thread-self/ns/net';
/** A kernel that lacks a setting, or lets nobody change it, is no failure. */
const SETTING_REFUSED: ReadonlySet<string> = new Set(['ENOENT', 'EACCES', 'EPERM', 'EROFS', 'EINVAL']);

/** A system call said no. */
class CallFailure extends Error {
  readonly step: string;
  readonly systemCode: string;

  constructor(step: string, code: string) {
    super(`${step}: ${code}`);
    this.step = step;
    this.systemCode = code;
  }
}

/** The functions of the C library, each throwing what errno says. */
interface Library {
  mount(source: string, target: string, fsType: string, flags: bigint, data: string): void;
  unmount(path: string, flags: number): void;
  unshareNetwork(): void;
  enterNetwork(fd: number): void;
  /** Raises the loopback interface of the namespace this thread is in. */
  raiseLoopback(): void;
}

async function loadLibrary(): Promise<Library> {
  const { dlopen, getInt32 } = await import('node:ffi');
  const { functions: c } = dlopen(LIBRARY, {
    mount: { arguments: ['string', 'string', 'string', 'uint64', 'string'], return: 'int32' },
    umount2: { arguments: ['string', 'int32'], return: 'int32' },
    unshare: { arguments: ['int32'], return: 'int32' },
    setns: { arguments: ['int32', 'int32'], return: 'int32' },
    socket: { arguments: ['int32', 'int32', 'int32'], return: 'int32' },
    ioctl: { arguments: ['int32', 'uint64', 'buffer'], return: 'int32' },
    close: { arguments: ['int32'], return: 'int32' },
    __errno_location: { arguments: [], return: 'pointer' },
  });
  const checked = (step: string, result: number): number => {
    if (result < 0) throw new CallFailure(step, getSystemErrorName(-getInt32(c.__errno_location(), 0)));
    return result;
  };
  return {
    mount(source, target, fsType, flags, data) {
      checked('mount', c.mount(source, target, fsType, flags, data));
    },
    unmount(path, flags) {
      checked('umount2', c.umount2(path, flags));
    },
    unshareNetwork() {
      checked('unshare', c.unshare(CLONE_NEWNET));
    },
    enterNetwork(fd) {
      checked('setns', c.setns(fd, CLONE_NEWNET));
    },
    raiseLoopback() {
      const socket = checked('socket', c.socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0));
      try {
        const request = Buffer.alloc(IFREQ_BYTES);
        request.write('lo');
        checked('SIOCGIFFLAGS lo', c.ioctl(socket, SIOCGIFFLAGS, request));
        request.writeUInt16LE(request.readUInt16LE(IFREQ_FLAGS) | IFF_UP, IFREQ_FLAGS);
        checked('SIOCSIFFLAGS lo', c.ioctl(socket, SIOCSIFFLAGS, request));
      } finally {
        // Node knows nothing of this descriptor.
        c.close(socket);
      }
    },
  };
}

function perform(library: Library, call: SystemCall): void {
  switch (call.kind) {
    case 'networkNamespace':
      makeNetworkNamespace(library, call.path, call.settings);
      return;
    case 'mountOverlay':
      library.mount('overlay', call.target, 'overlay', MS_NODEV, call.data);
      return;
    case 'unmount':
      library.unmount(call.path, call.lazy ? MNT_DETACH : 0);
      return;
  }
}

function makeNetworkNamespace(
  library: Library,
  path: string,
  settings: readonly (readonly [name: string, value: string])[],
): void {
  const home = openSync(OWN_NAMESPACE, 'r');
  try {
    library.unshareNetwork();
    try {
      library.mount(OWN_NAMESPACE, path, 'none', MS_BIND, '');
      for (const [name, value] of settings) writeSetting(name, value);
      library.raiseLoopback();
    } finally {
      library.enterNetwork(home);
    }
  } finally {
    closeSync(home);
  }
}

function writeSetting(name: string, value: string): void {
  try {
    writeFileSync(`/proc/sys/net/${name}`, value);
  } catch (error) {
    if (!SETTING_REFUSED.has(systemCode(error) ?? '')) throw error;
  }
}

function failureOf(error: unknown): NonNullable<SystemCallAnswer['failure']> {
  if (error instanceof CallFailure) return { step: error.step, systemCode: error.systemCode };
  const step = error instanceof Error ? error.message : String(error);
  return { step, systemCode: systemCode(error) ?? 'UNKNOWN' };
}

const port = parentPort;
if (port === null) throw new Error('system-calls-thread is no program');
const library = await loadLibrary().catch((error: unknown) =>
  error instanceof Error ? error : new Error(String(error)),
);
port.on('message', ({ id, call }: SystemCallRequest) => {
  if (library instanceof Error) {
    port.postMessage({ id, unavailable: library.message } satisfies SystemCallAnswer);
    return;
  }
  try {
    perform(library, call);
    port.postMessage({ id } satisfies SystemCallAnswer);
  } catch (error) {
    const failure = failureOf(error);
    port.postMessage({ id, failure } satisfies SystemCallAnswer);
    // In a foreign namespace it would do harm from now on.
    if (failure.step === 'setns') process.exit(1);
  }
});
