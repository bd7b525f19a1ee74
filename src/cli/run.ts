/**
 * `run` and `create`. In the foreground `run` is the container: it writes what the container writes, hands it the
 * signals it gets, and ends as it ends.
 */
import { constants } from 'node:os';
import type { Command } from 'commander';
import type { ContainerSpec } from '../api/generated/berth/v1/ContainerSpec.ts';
import type { RunEvent__Output } from '../api/generated/berth/v1/RunEvent.ts';
import { addContainerFlags, type ContainerFlags, containerSpec } from './container-flags.ts';
import { type Daemon, STATUS } from './daemon.ts';
import { CallFailure, EXIT_RUN_FAILURE, Failure } from './failure.ts';
import { passSignals } from './pass-signals.ts';
import type { Session } from './session.ts';

const RUN_EXAMPLES = `
Examples:
  berth run --rm busybox -- echo hello
  berth run -d --name web -p 8080:80 -v data:/srv busybox httpd -f -h /srv
  berth run --rm --network front --network back busybox -- ip addr
  berth run --rm --device disk:/dev/xvda busybox -- blockdev --getsize64 /dev/xvda

Options stop at the image: what follows is the command, and a "--" may stand between them.
Exit codes: the container's own; 125 berth failed, 126 the command cannot be executed, 127 it is not there.`;

/** Adds `run` and `create` to the program. */
export function addRunVerbs(program: Command, session: Session): void {
  const run = program
    .command('run')
    .summary('create a container and run it')
    .description('Creates a container and runs it.')
    .argument('<image>', 'image to run (berth image ls)')
    .argument('[command...]', "command and its arguments (default: the image's)")
    .option('-d, --detach', 'print the id and leave the container running');
  addContainerFlags(run)
    .passThroughOptions()
    .addHelpText('after', RUN_EXAMPLES)
    .action(async (image: string, words: string[], flags: ContainerFlags & { detach?: boolean }, command: Command) => {
      const spec = containerSpec(image, words, flags, { cwd: process.cwd(), env: session.env });
      await new Foreground(session, spec, flags.detach ?? false).run(command);
    });
  const create = program
    .command('create')
    .summary('create a container without running it')
    .description('Creates a container without running it and prints its id. berth start runs it.')
    .argument('<image>', 'image to run (berth image ls)')
    .argument('[command...]', "command and its arguments (default: the image's)");
  addContainerFlags(create)
    .passThroughOptions()
    .addHelpText('after', '\nExample:\n  berth create --name job -m 64Mi busybox -- sh -c "sleep 5; echo done"')
    .action(async (image: string, words: string[], flags: ContainerFlags, command: Command) => {
      const spec = containerSpec(image, words, flags, { cwd: process.cwd(), env: session.env });
      const daemon = await session.daemon(command);
      const container = await daemon.call('Containers', 'Create', { spec });
      await session.print(`${container.id}\n`);
    });
}

/** One `berth run`. */
class Foreground {
  readonly #session: Session;
  readonly #spec: ContainerSpec;
  readonly #detach: boolean;
  readonly #launch = new AbortController();
  #daemon: Daemon | undefined;
  /** Known once the container runs. */
  #id: string | undefined;
  #ended = false;
  /** The signal that ended the launch. */
  #interrupt: NodeJS.Signals | undefined;
  #signalling: Promise<void> = Promise.resolve();

  constructor(session: Session, spec: ContainerSpec, detach: boolean) {
    this.#session = session;
    this.#spec = spec;
    this.#detach = detach;
  }

  async run(command: Command): Promise<void> {
    using _signals = passSignals((signal) => this.#receive(signal));
    this.#daemon = await this.#session.daemon(command);
    const request = { spec: this.#spec, detach: this.#detach };
    try {
      for await (const event of this.#daemon.stream('Containers', 'Run', request, this.#launch.signal)) {
        await this.#handle(event);
      }
      await this.#signalling;
    } catch (error) {
      throw this.#explain(error);
    }
    if (!this.#ended && !this.#detach) throw new Failure('the daemon ended the call without an exit code');
  }

  async #handle(event: RunEvent__Output): Promise<void> {
    if (event.started) {
      this.#id = event.started.id;
      if (this.#detach) await this.#session.print(`${event.started.id}\n`);
    } else if (event.stdout !== undefined) await this.#session.print(event.stdout);
    else if (event.stderr !== undefined) await this.#session.warn(event.stderr);
    else if (event.exit) {
      this.#ended = true;
      // -1: nobody could tell how it ended.
      this.#session.exitCode = event.exit.code < 0 ? EXIT_RUN_FAILURE : event.exit.code;
    }
  }

  /** A container that runs gets the signal; a launch under way is called off, which undoes it. */
  #receive(signal: NodeJS.Signals): void {
    if (this.#ended) return;
    if (this.#id === undefined) {
      this.#interrupt = signal;
      this.#launch.abort();
    } else if (!this.#detach) {
      const id = this.#id;
      this.#signalling = this.#signalling.then(() => this.#kill(id, signal));
    }
  }

  async #kill(id: string, signal: NodeJS.Signals): Promise<void> {
    try {
      await this.#daemon?.call('Containers', 'Kill', { ref: id, signal });
    } catch (error) {
      if (!(error instanceof CallFailure)) throw error;
      // The container was faster.
      if (error.status === STATUS.FAILED_PRECONDITION || error.status === STATUS.NOT_FOUND) return;
      await this.#session.warn(`berth: ${signal} did not reach the container: ${error.message}\n`);
    }
  }

  #explain(error: unknown): unknown {
    if (this.#interrupt !== undefined && this.#id === undefined) {
      const exitCode = 128 + constants.signals[this.#interrupt];
      return new Failure(`${this.#interrupt}: the container was not started`, { exitCode, cause: error });
    }
    if (this.#id === undefined || !(error instanceof CallFailure)) return error;
    const id = this.#id.slice(0, 12);
    const outcome = this.#ended
      ? `container ${id} has exited with code ${this.#session.exitCode}, what came after it failed`
      : `lost sight of container ${id}, which may still run: follow it with berth logs -f ${id}`;
    return new Failure(`${outcome} (${error.message})`, { cause: error });
  }
}
