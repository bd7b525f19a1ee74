/** The command line of `berth`: all its verbs, and how it ends. */
import { Command, CommanderError } from 'commander';
import { addContainerVerbs } from './containers.ts';
import { EXIT_FAILURE, EXIT_RUN_FAILURE, Failure } from './failure.ts';
import { addImageVerbs } from './images.ts';
import { addLogsVerb } from './logs.ts';
import { addNetworkVerbs } from './networks.ts';
import { addPluginVerbs } from './plugins.ts';
import { addRunVerbs } from './run.ts';
import { hostOption, type Session } from './session.ts';
import { addSystemVerbs, clientVersion } from './system.ts';
import { addVolumeVerbs } from './volumes.ts';

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
  const program = createProgram(session);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return session.exitCode;
  } catch (error) {
    const own = argv.includes('run') && verbOf(program, argv) === 'run' ? EXIT_RUN_FAILURE : EXIT_FAILURE;
    // Commander has shown its message itself; help and --version are no failures.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : own;
    const message = error instanceof Failure ? error.message : String(error instanceof Error ? error.stack : error);
    await session.warn(`berth: ${message}\n`);
    return (error instanceof Failure ? error.exitCode : undefined) ?? own;
  } finally {
    session.close();
  }
}

/** The program with all verbs. */
export function createProgram(session: Session): Command {
  const program = new Command('berth')
    .description(DESCRIPTION)
    .usage('[--host ADDRESS] VERB ...')
    .version(clientVersion(), '-V, --version', 'print the version of this program')
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
  addRunVerbs(program, session);
  addContainerVerbs(program, session);
  addLogsVerb(program, session);
  addImageVerbs(program, session);
  addVolumeVerbs(program, session);
  addNetworkVerbs(program, session);
  addPluginVerbs(program, session);
  addSystemVerbs(program, session);
  for (const verb of leaves(program)) verb.addOption(hostOption().hideHelp());
  return program;
}

function leaves(command: Command): readonly Command[] {
  return command.commands.flatMap((child) => (child.commands.length === 0 ? [child] : leaves(child)));
}

/** The verb of a command line: the first word that is neither an option of the program nor its value. */
function verbOf(program: Command, argv: readonly string[]): string | undefined {
  return program.parseOptions([...argv]).operands[0];
}
