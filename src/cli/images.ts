/** `image import | ls | inspect | rm`. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Image__Output } from '../api/generated/berth/v1/Image.ts';
import { labelsOf } from './container-view.ts';
import { usage } from './failure.ts';
import { type Format, formatOption, jsonOption, listOption, type Session } from './session.ts';
import { formatDuration, formatSize } from './size.ts';
import type { Column } from './table.ts';

/** Adds the group to the program. */
export function addImageVerbs(program: Command, session: Session): void {
  const group = program.command('image').summary('images: import, ls, inspect, rm').description('Images of this host.');
  addImport(group, session);
  group
    .command('ls')
    .alias('list')
    .summary('list images')
    .addOption(formatOption())
    .action(async ({ format }: { format: Format }, command: Command) => {
      const daemon = await session.daemon(command);
      const { images } = await daemon.call('Images', 'List', {});
      await session.printList(format, images, { columns: columns(Date.now()), json: imageObject });
    });
  group
    .command('inspect')
    .summary('show everything about images')
    .description('Shows everything about images as a JSON array.')
    .argument('<image...>', 'reference or id')
    .addOption(jsonOption())
    .action(async (refs: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      const images = await Promise.all(refs.map((ref) => daemon.call('Images', 'Inspect', { ref })));
      await session.printJson(images.map(imageObject));
    });
  group
    .command('rm')
    .summary('remove images')
    .description('Removes images that no container uses.')
    .argument('<image...>', 'reference or id')
    .action(async (refs: string[], _flags: unknown, command: Command) => {
      const daemon = await session.daemon(command);
      await session.forEach(refs, async (ref) => {
        await daemon.call('Images', 'Remove', { ref });
        return `${ref}\n`;
      });
    });
}

function addImport(group: Command, session: Session): void {
  group
    .command('import')
    .summary('make an image of a tar file')
    .description('Makes an image of a tar file that holds a root file system. An old image of that name gives way.')
    .argument('<file>', 'tar file on the host of berthd')
    .argument('<reference>', 'what to call the image: busybox:1')
    .addOption(
      listOption(
        '-c, --change <instruction>',
        'Dockerfile instruction: \'CMD ["/bin/sh"]\', "ENV KEY=value" (repeatable)',
      ),
    )
    .addHelpText('after', '\nExample:\n  berth image import rootfs.tar busybox:1 -c \'CMD ["/bin/sh"]\'')
    .action(async (file: string, reference: string, { change }: { change?: string[] }, command: Command) => {
      if (file === '-') throw usage('file', 'standard input is not read: name a file');
      const daemon = await session.daemon(command);
      const request = { sourcePath: resolve(file), reference, changes: change ?? [] };
      const image = await daemon.call('Images', 'Import', request);
      await session.print(`${image.id}\n`);
    });
}

function columns(nowMs: number): Column<Image__Output>[] {
  return [
    { heading: 'REFERENCE', cell: ({ reference }) => reference },
    { heading: 'IMAGE ID', cell: ({ id }) => id.replace('sha256:', '').slice(0, 12) },
    { heading: 'SIZE', cell: ({ sizeBytes }) => formatSize(Number(sizeBytes)) },
    { heading: 'CREATED', cell: ({ createdAt }) => `${formatDuration(nowMs - Date.parse(createdAt))} ago` },
  ];
}

function imageObject({ id, reference, sizeBytes, createdAt, config }: Image__Output): Record<string, unknown> {
  return {
    id,
    reference,
    sizeBytes: Number(sizeBytes),
    createdAt,
    config: {
      entrypoint: config?.entrypoint ?? [],
      command: config?.command ?? [],
      env: config?.env ?? [],
      workingDir: config?.workingDir ?? '',
      user: config?.user ?? '',
      labels: labelsOf(config?.labels ?? []),
    },
  };
}
