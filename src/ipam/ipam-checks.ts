/** What `berth doctor` says about addresses: what the plugin needs of the host, and leases nobody can read. */
import { accessSync, constants } from 'node:fs';
import type { Check } from '../check.ts';
import type { Store } from '../store.ts';
import type { Lease } from './lease-table.ts';

const AREA = 'network';
/** The interpreter that libexec/berth-ipam names. */
const PERL = '/usr/bin/perl';

/** Looks at the host; changes nothing. */
export function ipamChecks(leases: Pick<Store<Lease>, 'damaged'>): Check[] {
  return [perl(), ...[...leases.damaged()].map(([key, reason]) => damaged(key, reason))];
}

function perl(): Check {
  try {
    accessSync(PERL, constants.X_OK);
    return { area: AREA, name: 'berth-ipam', state: 'ok', detail: PERL };
  } catch {
    const detail = `${PERL} is missing: networks with the IPAM plugin berth-ipam cannot be used`;
    return { area: AREA, name: 'berth-ipam', state: 'warn', detail, remedy: 'apt-get install -y perl-base' };
  }
}

function damaged(key: string, reason: string): Check {
  const detail = `its record does not decode (${reason}): the address is not given to anybody`;
  return { area: AREA, name: `lease ${key}`, state: 'warn', detail };
}
