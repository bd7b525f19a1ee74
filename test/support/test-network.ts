/**
 * A subnet and bridge names that no other test of this machine uses at the same time. 10.87.100.0/24 to 10.87.199.0/24
 * are handed out; the claim is an abstract socket, so that the kernel arbitrates between test processes and a process
 * that was killed claims nothing.
 */
import { spawnSync } from 'node:child_process';
import { createServer, type Server } from 'node:net';
import { systemCode } from '../../src/errors.ts';
import { cleanup, type TestScope } from './cleanup.ts';

const FIRST = 100;
const COUNT = 99;

/** A network of a test: bridge, masquerading, host-local with leases in a directory of the test. */
export interface TestNetwork {
  /** Name of the network: "e2e" */
  readonly name: string;
  /** "bre2e-117a" */
  readonly bridge: string;
  /** "10.87.117.0/25" */
  readonly subnet: string;
  /** "10.87.117.1" */
  readonly gateway: string;
}

/** What {@link claimNetworks} gives. */
export interface ClaimedNetworks {
  /** "10.87.117.0/24" */
  readonly subnet: string;
  /** Halves of the subnet: the one every container gets unless it names another, and a second one. */
  readonly networks: readonly [TestNetwork, TestNetwork];
}

/** Claims a subnet until the test ends, and removes its bridges then. */
export async function claimNetworks(t: TestScope): Promise<ClaimedNetworks> {
  const start = Math.floor(Math.random() * COUNT);
  for (let attempt = 0; attempt < COUNT; attempt += 1) {
    const number = FIRST + ((start + attempt) % COUNT);
    const claim = await claimed(number);
    if (claim === undefined) continue;
    cleanup(t, () => claim.close());
    const first = {
      name: 'e2e',
      bridge: `bre2e-${number}a`,
      subnet: `10.87.${number}.0/25`,
      gateway: `10.87.${number}.1`,
    };
    const second = {
      name: 'e2e-second',
      bridge: `bre2e-${number}b`,
      subnet: `10.87.${number}.128/25`,
      gateway: `10.87.${number}.129`,
    };
    for (const { bridge } of [first, second]) {
      // A test process that was killed may have left it; while we hold the claim it is nobody's.
      removeBridge(bridge);
      cleanup(t, () => removeBridge(bridge));
    }
    removeBridgesIn(`10.87.${number}.`);
    cleanup(t, () => removeBridgesIn(`10.87.${number}.`));
    return { subnet: `10.87.${number}.0/24`, networks: [first, second] };
  }
  throw new Error('every test subnet is in use');
}

/** The configuration list of a network, with the plugins a default network has. */
export function conflist(network: TestNetwork, leaseDir: string): object {
  return {
    cniVersion: '1.0.0',
    name: network.name,
    plugins: [
      {
        type: 'bridge',
        bridge: network.bridge,
        isGateway: true,
        ipMasq: true,
        hairpinMode: true,
        ipam: {
          type: 'host-local',
          dataDir: leaseDir,
          ranges: [[{ subnet: network.subnet }]],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
      { type: 'firewall' },
    ],
  };
}

async function claimed(number: number): Promise<Server | undefined> {
  const server = createServer().unref();
  const { promise, resolve, reject } = Promise.withResolvers<Server | undefined>();
  server.once('error', (error) => (systemCode(error) === 'EADDRINUSE' ? resolve(undefined) : reject(error)));
  server.listen(`\0berth-test-subnet-${number}`, () => resolve(server));
  return promise;
}

/** Networks that a test had Berth create get their bridges' addresses from the claimed subnet. */
function removeBridgesIn(prefix: string): void {
  const { stdout } = spawnSync('ip', ['-4', '-o', 'addr', 'show', 'type', 'bridge'], { encoding: 'utf8' });
  for (const line of stdout.split('\n')) {
    const [, name = '', , address = ''] = line.split(/\s+/);
    if (address.startsWith(prefix)) removeBridge(name);
  }
}

/** Succeeds when there is none. */
function removeBridge(name: string): void {
  spawnSync('ip', ['link', 'delete', name, 'type', 'bridge'], { stdio: 'ignore' });
}
