/** `version`, `info` and `doctor`: which berth this is and what the host offers. */
import type { Command } from 'commander';
import type { Check__Output } from '../api/generated/berth/v1/Check.ts';
import { type Format, formatOption, type Session } from './session.ts';
import { printable, table } from './table.ts';

/** Adds the verbs to the program. */
export function addSystemVerbs(program: Command, session: Session): void {
  addVersion(program, session);
  program
    .command('info')
    .summary('show how berthd is set up')
    .description('Shows what berthd was configured with and what it chose.')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { facts } = await daemon.call('System', 'Info', {});
      if (format === 'json') await session.printJson(Object.fromEntries(facts.map(({ key, value }) => [key, value])));
      else await session.print(facts.map(({ key, value }) => `${printable(`${key}: ${value}`)}\n`).join(''));
    });
  program
    .command('doctor')
    .summary('check what the host offers and how to mend what it lacks')
    .description(
      'Looks at the host of berthd and shows what it offers, what it lacks and the command that mends it.\n' +
        'Ends with 1 when something berthd needs is missing.',
    )
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { checks } = await daemon.call('System', 'Doctor', {});
      if (format === 'json') await session.printJson(checks.map(checkObject));
      else await session.print(checkTable(checks));
      if (checks.some((check) => stateName(check) === 'fail')) session.exitCode = 1;
    });
}

function addVersion(program: Command, session: Session): void {
  program
    .command('version')
    .summary('show the versions of berth and berthd')
    .description('Shows the versions of this program and of the daemon.')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const client = { version: session.version, nodeVersion: process.versions.node };
      if (format === 'table') await session.print(`berth    ${client.version} (Node.js ${client.nodeVersion})\n`);
      const daemon = await session.daemon(command);
      const answer = await daemon.call('System', 'Version', {});
      const { version, apiVersion, nodeVersion, startedAt } = answer;
      if (format === 'json') {
        await session.printJson({ client, daemon: { version, apiVersion, nodeVersion, startedAt } });
      } else {
        await session.print(`berthd   ${version} (Node.js ${nodeVersion}, API ${apiVersion}, since ${startedAt})\n`);
      }
    });
}

function stateName({ state }: Check__Output): string {
  return String(state).replace('CHECK_STATE_', '').toLowerCase();
}

function checkObject(check: Check__Output): Record<string, unknown> {
  const { area, name, detail, remedy } = check;
  return { area, name, state: stateName(check), detail, remedy };
}

/** The checks, and below each that is not well the command that mends it. */
function checkTable(checks: readonly Check__Output[]): string {
  const lines = table(
    [
      { heading: 'AREA', cell: ({ area }) => area },
      { heading: 'STATE', cell: stateName },
      { heading: 'CHECK', cell: ({ name }) => name },
      { heading: 'FOUND', cell: ({ detail }) => detail },
    ],
    checks,
  ).split('\n');
  const [heading = '', ...rest] = lines;
  const body = checks.flatMap(({ remedy }, index) => [
    rest[index] ?? '',
    ...(remedy === '' ? [] : [`${' '.repeat(8)}mend it: ${printable(remedy)}`]),
  ]);
  return `${[heading, ...body].join('\n')}\n`;
}
