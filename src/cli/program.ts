/** The command line of `berth`: all its verbs, and how it ends. */
import { Command, CommanderError } from 'commander';
import { EXIT_FAILURE, EXIT_RUN_FAILURE, Failure } from './failure.ts';
import { hostOption, type Session } from './session.ts';

type AddVerbs = (program: Command, session: Session) => void;

/** Verbs in the order in which help lists them. A module is loaded when one of its verbs, or help, is asked for. */
const VERBS: readonly { readonly names: readonly string[]; readonly load: () => Promise<AddVerbs> }[] = [
  { names: ['run', 'create'], load: async () => (await import('./run.ts')).addRunVerbs },
  {
    names: ['ps', 'inspect', 'start', 'wait', 'stop', 'kill', 'rm', 'stats'],
    load: async () => (await import('./containers.ts')).addContainerVerbs,
  },
  { names: ['logs'], load: async () => (await import('./logs.ts')).addLogsVerb },
  { names: ['image'], load: async () => (await import('./images.ts')).addImageVerbs },
  { names: ['volume'], load: async () => (await import('./volumes.ts')).addVolumeVerbs },
  { names: ['snapshot'], load: async () => (await import('./snapshots.ts')).addSnapshotVerbs },
  { names: ['network'], load: async () => (await import('./networks.ts')).addNetworkVerbs },
  { names: ['ipam'], load: async () => (await import('./ipam.ts')).addIpamVerbs },
  { names: ['csi'], load: async () => (await import('./plugins.ts')).addPluginVerbs },
  { names: ['version', 'info', 'doctor'], load: async () => (await import('./system.ts')).addSystemVerbs },
];

const DESCRIPTION = 'Runs containers with CNI networks and CSI volumes on this machine, through berthd.';
const FIRST_STEPS = `
First steps:
  berth doctor                                        is this machine ready?
  berth image import rootfs.tar busybox               make an image
  berth volume create data --size 64Mi                make a volume
  berth run --rm -v data:/data busybox -- df /data    use both

berth VERB --help explains each verb.`;

/** Runs one command line and returns the exit code. */
export async function runProgram(argv: readonly string[], session: Session): Promise<number> {
  const verb = verbOf(argv);
  const ownFailure = verb === 'run' ? EXIT_RUN_FAILURE : EXIT_FAILURE;
  try {
    const program = await createProgram(session, verb);
    await program.parseAsync([...argv], { from: 'user' });
    return session.exitCode;
  } catch (error) {
    // Commander has shown its message itself; help and --version are no failures.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : ownFailure;
    const message = error instanceof Failure ? error.message : String(error instanceof Error ? error.stack : error);
    await session.warn(`berth: ${message}\n`);
    return (error instanceof Failure ? error.exitCode : undefined) ?? ownFailure;
  } finally {
    session.close();
  }
}

/** The program with the verbs of one module if `verb` is one of them, else with all. */
export async function createProgram(session: Session, verb?: string): Promise<Command> {
  const program = new Command('berth')
    .description(DESCRIPTION)
    .usage('[--host ADDRESS] VERB ...')
    .version(session.version, '-V, --version', 'print the version of this program')
    .addOption(hostOption())
    .helpOption('-h, --help', 'show this text')
    .helpCommand(false)
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => session.stdout.write(text),
      writeErr: (text) => session.stderr.write(text.replace(/^error: /, 'berth: ')),
    })
    .showHelpAfterError('Add --help to see what is possible.')
    .addHelpText('after', FIRST_STEPS);
  const wanted = VERBS.filter(({ names }) => verb !== undefined && names.includes(verb));
  for (const { load } of wanted.length > 0 ? wanted : VERBS) (await load())(program, session);
  for (const group of program.commands) group.helpCommand(false);
  for (const leaf of leaves(program)) leaf.addOption(hostOption().hideHelp());
  return program;
}

function leaves(command: Command): readonly Command[] {
  return command.commands.flatMap((child) => (child.commands.length === 0 ? [child] : leaves(child)));
}

/** The verb of a command line: its first word after the program's own options. */
function verbOf(argv: readonly string[]): string | undefined {
  const [first, ...rest] = argv;
  if (first === '--host') return verbOf(rest.slice(1));
  return first?.startsWith('--host=') === true ? verbOf(rest) : first;
}
