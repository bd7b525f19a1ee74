import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { describe, test } from 'node:test';
import { Command } from 'commander';
import { addContainerFlags, type ContainerFlags, containerSpec } from '../../src/cli/container-flags.ts';
import { Failure } from '../../src/cli/failure.ts';
import { LineStamps } from '../../src/cli/logs.ts';
import { parsePort } from '../../src/cli/port-flag.ts';
import { createProgram } from '../../src/cli/program.ts';
import { Session } from '../../src/cli/session.ts';
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/cli/size.ts';
import { table } from '../../src/cli/table.ts';
import { volumeRequest } from '../../src/cli/volumes.ts';

const around = { cwd: '/home/me', env: { HOME: '/home/me', EMPTY: '' } };

/** The request that the words after `berth run` make. */
function specOf(...argv: string[]): ReturnType<typeof containerSpec> {
  const made: ReturnType<typeof containerSpec>[] = [];
  const program = new Command()
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ writeErr: () => undefined });
  const run = program.command('run').argument('<image>').argument('[command...]').passThroughOptions();
  addContainerFlags(run).action((image: string, words: string[], flags: ContainerFlags) => {
    made.push(containerSpec(image, words, flags, around));
  });
  program.parse(['run', ...argv], { from: 'user' });
  const [spec] = made;
  return spec ?? assert.fail('the action did not run');
}

describe('flags of run and create', () => {
  const cases: [readonly string[], object][] = [
    [['busybox'], { image: 'busybox', command: [], name: '', networks: [], autoRemove: false, readOnlyRootfs: false }],
    [['busybox', 'ls', '-l'], { command: ['ls', '-l'] }],
    [['busybox', '--', 'ls', '-l'], { command: ['ls', '-l'] }],
    [['--', 'busybox', 'ls'], { image: 'busybox', command: ['ls'] }],
    [['busybox', '--', '--', 'x'], { command: ['--', 'x'] }],
    [['busybox', 'sh', '--', '-c'], { command: ['sh', '--', '-c'] }],
    [['busybox', '--rm', '--name', 'x'], { command: ['--rm', '--name', 'x'], autoRemove: false, name: '' }],
    [['--name', 'web', '--rm', 'busybox'], { name: 'web', autoRemove: true }],
    [['-e', 'A=b=c', '-e', 'HOME', '-e', 'EMPTY', '-e', 'MISSING', 'i'], { env: ['A=b=c', 'HOME=/home/me', 'EMPTY='] }],
    [['-w', '/srv', '-u', '1:2', '--hostname', 'h', 'i'], { workingDir: '/srv', user: '1:2', hostname: 'h' }],
    [['--entrypoint', '/bin/sh', 'i'], { entrypoint: { values: ['/bin/sh'] } }],
    [['--entrypoint', '', 'i'], { entrypoint: { values: [] } }],
    [
      ['--label', 'a=b=c', '-l', 'flag', 'i'],
      {
        labels: [
          { key: 'a', value: 'b=c' },
          { key: 'flag', value: '' },
        ],
      },
    ],
    [
      ['-m', '64Mi', '--cpus', '1.5', '--pids-limit', '20', 'i'],
      { resources: { memoryBytes: '67108864', cpuMillis: '1500', pidsLimit: '20' } },
    ],
    [
      ['--read-only', '--cap-add', 'NET_RAW', '--cap-drop', 'ALL', 'i'],
      { readOnlyRootfs: true, capAdd: ['NET_RAW'], capDrop: ['ALL'] },
    ],
    [['--security-opt', 'seccomp=unconfined', 'i'], { seccompProfile: 'unconfined' }],
    [['--security-opt', 'seccomp=p.json', 'i'], { seccompProfile: '/home/me/p.json' }],
    [['--network', 'a', '--network', 'b', 'i'], { networks: ['a', 'b'] }],
    [['--network', 'none', 'i'], { networks: ['none'] }],
    [
      ['--network-alias', 'db', '--network-alias', 'sql', '--dns', '192.0.2.1', '--dns-search', '.', 'i'],
      { networkAliases: ['db', 'sql'], dnsServers: ['192.0.2.1'], dnsSearch: ['.'], dnsOptions: [] },
    ],
    [
      ['--dns-option', 'ndots:2', '--add-host', 'a:192.0.2.1', '--add-host', 'b=::1', '--add-host', 'c:[::2]', 'i'],
      {
        dnsOptions: ['ndots:2'],
        extraHosts: [
          { name: 'a', address: '192.0.2.1' },
          { name: 'b', address: '::1' },
          { name: 'c', address: '::2' },
        ],
      },
    ],
    [
      [
        ...['--network-arg', 'K8S_POD_NAME=db-0', '--network-arg', 'front:IP=10.87.80.5'],
        ...[
          '--network-capability',
          'deviceID=0000:00:1f.6',
          '--network-capability',
          'back:bandwidth={"ingressRate": 8}',
        ],
        'i',
      ],
      {
        networkOptions: [
          { network: '', kind: 'NETWORK_OPTION_KIND_ARGUMENT', name: 'K8S_POD_NAME', value: 'db-0' },
          { network: 'front', kind: 'NETWORK_OPTION_KIND_ARGUMENT', name: 'IP', value: '10.87.80.5' },
          { network: '', kind: 'NETWORK_OPTION_KIND_CAPABILITY', name: 'deviceID', value: '"0000:00:1f.6"' },
          { network: 'back', kind: 'NETWORK_OPTION_KIND_CAPABILITY', name: 'bandwidth', value: '{"ingressRate":8}' },
        ],
      },
    ],
    [['--add-host', 'up:host-gateway', 'i'], { extraHosts: [{ name: 'up', address: 'host-gateway' }] }],
    [['-p', '8080:80', 'i'], { ports: [{ hostPort: 8080, containerPort: 80, protocol: 'PROTOCOL_TCP' }] }],
    [
      ['-v', 'data:/d', '-v', '/srv:/s:ro', '-v', './x:/x', '-v', '../y:/y:rw', 'i'],
      {
        mounts: [
          { volume: 'data', target: '/d', readOnly: false },
          { hostPath: '/srv', target: '/s', readOnly: true },
          { hostPath: '/home/me/x', target: '/x', readOnly: false },
          { hostPath: '/home/y', target: '/y', readOnly: false },
        ],
      },
    ],
    [['--device', 'disk:/dev/xvda', 'i'], { devices: [{ volume: 'disk', path: '/dev/xvda', readOnly: false }] }],
    [['--device', 'disk:/dev/xvda:ro', 'i'], { devices: [{ volume: 'disk', path: '/dev/xvda', readOnly: true }] }],
  ];
  for (const [argv, expected] of cases) {
    test(`run ${argv.map((word) => JSON.stringify(word)).join(' ')}`, () => {
      assert.partialDeepStrictEqual(specOf(...argv), expected);
    });
  }

  test('what was not asked for is absent', () => {
    const spec = specOf('busybox');
    for (const key of ['entrypoint', 'workingDir', 'user', 'hostname', 'seccompProfile'])
      assert.ok(!(key in spec), key);
    assert.deepEqual(spec.resources, {});
  });

  const refused: [readonly string[], RegExp][] = [
    [['-m', 'much', 'i'], /^--memory: "much" is no size/],
    [['-m', '-1', 'i'], /^--memory/],
    [['--cpus', '0', 'i'], /^--cpus/],
    [['--cpus', 'x', 'i'], /^--cpus/],
    [['--pids-limit', '1.5', 'i'], /^--pids-limit/],
    [['-p', '80', 'i'], /^--publish: "80" must be/],
    [['-p', '80:80/icmp', 'i'], /^--publish: .*"icmp"/],
    [['-v', 'data', 'i'], /^--volume: "data" must be/],
    [['-v', ':/x', 'i'], /^--volume/],
    [['-v', 'a:/b:rx', 'i'], /^--volume: .*"rx"/],
    [['-v', 'a:/b:ro:z', 'i'], /^--volume/],
    [['--device', '/dev/sda:/dev/x', 'i'], /^--device/],
    [['--device', 'disk', 'i'], /^--device/],
    [['--device', 'disk:/dev/x:rwm', 'i'], /^--device: .*"rwm" must be "ro" or "rw"/],
    [['--security-opt', 'apparmor=x', 'i'], /^--security-opt/],
    [['--add-host', 'x', 'i'], /^--add-host: "x" must be/],
    [['--add-host', ':192.0.2.1', 'i'], /^--add-host/],
    [['--add-host', 'x:', 'i'], /^--add-host/],
  ];
  for (const [argv, message] of refused) {
    test(`run ${argv.join(' ')} is refused and the flag named`, () => {
      assert.throws(
        () => specOf(...argv),
        (error: Error) => error instanceof Failure && message.test(error.message),
      );
    });
  }
});

describe('parsePort', () => {
  const tcp = { hostPort: 1, containerPort: 2, protocol: 'PROTOCOL_TCP' };
  const cases: [string, object | undefined][] = [
    ['1:2', tcp],
    ['1:2/tcp', tcp],
    ['1:2/UDP', { ...tcp, protocol: 'PROTOCOL_UDP' }],
    ['1:2/sctp', { ...tcp, protocol: 'PROTOCOL_SCTP' }],
    ['127.0.0.1:1:2', { ...tcp, hostIp: '127.0.0.1' }],
    ['[::1]:1:2/tcp', { ...tcp, hostIp: '::1' }],
    [':1:2', tcp],
    ['::1:1:2', undefined],
    ['1-2:3-4', undefined],
    ['1:2:', undefined],
    ['', undefined],
  ];
  for (const [text, expected] of cases) {
    test(JSON.stringify(text), () => {
      if (expected === undefined) assert.throws(() => parsePort(text), /^Failure: --publish/);
      else assert.deepEqual(parsePort(text), expected);
    });
  }
});

describe('volume create', () => {
  test('makes a request', () => {
    const flags = {
      size: '1Gi',
      access: 'block',
      driver: 'd',
      parameter: ['a=b=c'],
      mutableParameter: ['m=1'],
      class: 'fast',
    };
    assert.deepEqual(volumeRequest('v', flags), {
      name: 'v',
      driver: 'd',
      capacityBytes: '1073741824',
      access: 'VOLUME_ACCESS_BLOCK',
      parameters: [{ key: 'a', value: 'b=c' }],
      use: { accessMode: '', mountFlags: [], ownership: '', reclaim: '' },
      mutableParameters: [{ key: 'm', value: '1' }],
      volumeClass: 'fast',
    });
    const use = {
      accessMode: 'rwx',
      mountFlag: ['noatime', 'vers=4'],
      fsGroup: '0',
      ownership: 'always',
      reclaim: 'retain',
    };
    assert.deepEqual(volumeRequest('v', { ...flags, ...use }).use, {
      accessMode: 'rwx',
      mountFlags: ['noatime', 'vers=4'],
      group: 0,
      ownership: 'always',
      reclaim: 'retain',
    });
    for (const fsGroup of ['', '-1', 'wheel', '1.5', '4294967295']) {
      assert.throws(() => volumeRequest('v', { ...flags, fsGroup }), /--fs-group/);
    }
    assert.throws(() => volumeRequest('v', { ...flags, parameter: ['=x'] }), /--parameter/);
    assert.throws(() => volumeRequest('v', { ...flags, size: '0' }), /--size/);
    assert.throws(() => volumeRequest('v', { ...flags, mutableParameter: ['x'] }), /--mutable-parameter/);
  });
});

describe('sizes', () => {
  const cases: [string, number | undefined][] = [
    ['64Mi', 2 ** 26],
    ['64M', 2 ** 26],
    ['64m', 2 ** 26],
    ['64MiB', 2 ** 26],
    ['64mb', 2 ** 26],
    ['1Gi', 2 ** 30],
    ['512m', 2 ** 29],
    ['1.5g', 1.5 * 2 ** 30],
    ['2T', 2 ** 41],
    ['1k', 1024],
    ['10', 10],
    ['10b', 10],
    ['0', undefined],
    ['-1', undefined],
    ['1x', undefined],
    ['1e3', undefined],
    ['0x10', undefined],
    ['9000000P', undefined],
    ['', undefined],
    ['Mi', undefined],
  ];
  for (const [text, bytes] of cases) {
    test(`${JSON.stringify(text)} is ${bytes ?? 'refused'}`, () => {
      if (bytes === undefined) assert.throws(() => parseSize('--size', text), /--size: .*64Mi/);
      else assert.equal(parseSize('--size', text), bytes);
    });
  }

  test('are shown in their largest unit', () => {
    const shown = [0, 1023, 1024, 1536, 2 ** 26, 2 ** 30, 2 ** 60].map(formatSize);
    assert.deepEqual(shown, ['0 B', '1023 B', '1 KiB', '1.5 KiB', '64 MiB', '1 GiB', '1024 PiB']);
  });
});

describe('spans of time', () => {
  test('are read and shown', () => {
    assert.deepEqual(['90s', '10m', '1h30m', '2d', '1', 'm', '2026-01-31'].map(parseDuration), [
      90_000,
      600_000,
      5_400_000,
      172_800_000,
      undefined,
      undefined,
      undefined,
    ]);
    assert.deepEqual([0, 1000, 59_000, 60_000, 7_200_000, 172_800_000].map(formatDuration), [
      '0 seconds',
      '1 second',
      '59 seconds',
      '1 minute',
      '2 hours',
      '2 days',
    ]);
  });
});

describe('table', () => {
  test('aligns columns, leaves no blank at the end of a line, and escapes what would steer a terminal', () => {
    const columns = [
      { heading: 'A', cell: (row: string[]) => row[0] ?? '' },
      { heading: 'LONG', cell: (row: string[]) => row[1] ?? '' },
    ];
    assert.equal(
      table(columns, [
        ['wide cell', 'x'],
        ['\x1b[2J\n', ''],
      ]),
      'A             LONG\nwide cell     x\n\\x1b[2J\\x0a\n',
    );
    assert.equal(table(columns, []), 'A   LONG\n');
  });
});

describe('LineStamps', () => {
  test('puts one stamp in front of each line of a stream, wherever chunks are cut', () => {
    const stamps = new LineStamps();
    const apply = (stream: 'OUTPUT_STREAM_STDOUT' | 'OUTPUT_STREAM_STDERR', text: string, at: string): string =>
      stamps.apply({ stream, data: Buffer.from(text), at }).toString();
    assert.equal(apply('OUTPUT_STREAM_STDOUT', 'a\nb', 'T1'), 'T1 a\nT1 b');
    assert.equal(apply('OUTPUT_STREAM_STDERR', 'e\n', 'T2'), 'T2 e\n');
    assert.equal(apply('OUTPUT_STREAM_STDOUT', 'c\n\n', 'T3'), 'c\nT3 \n');
    assert.equal(apply('OUTPUT_STREAM_STDOUT', '', 'T4'), '');
  });
});

describe('help', () => {
  const quiet = new Writable({ write: (_chunk, _encoding, done) => done() });
  const session = new Session(quiet, quiet, {});
  const all = (command: Command): Command[] => [command, ...command.commands.flatMap(all)];

  test('every verb and every option says what it does', async () => {
    const program = await createProgram(session);
    for (const command of all(program)) {
      assert.notEqual(command.summary() + command.description(), '', command.name());
      for (const option of command.options)
        assert.notEqual(option.description, '', `${command.name()} ${option.flags}`);
    }
  });

  test('shows nothing of how the command line is made', async () => {
    for (const command of all(await createProgram(session))) {
      const text = command.helpInformation();
      assert.doesNotMatch(text, /default: \[|help \[command\]|undefined/, command.name());
    }
  });

  test('a format that a verb does not have is refused, also where there is only one', async () => {
    for (const words of [
      ['inspect', 'x'],
      ['image', 'inspect', 'x'],
      ['network', 'inspect', 'x'],
      ['volume', 'inspect', 'x'],
      ['ps'],
    ]) {
      const program = await createProgram(session);
      const parsed = program.parseAsync([...words, '--format', '{{.State}}'], { from: 'user' });
      await assert.rejects(parsed, { code: 'commander.invalidArgument' }, words.join(' '));
    }
  });

  test('every list takes --format json', async () => {
    const program = await createProgram(session);
    const lists = all(program).filter((command) =>
      ['ls', 'ps', 'stats', 'info', 'version', 'doctor'].includes(command.name()),
    );
    assert.equal(lists.length, 14);
    for (const list of lists)
      assert.ok(
        list.options.some((option) => option.long === '--format'),
        list.name(),
      );
  });

  test('each verb is found when only its own module is loaded', async () => {
    const program = await createProgram(session);
    for (const verb of program.commands.map((command) => command.name())) {
      const part = await createProgram(session, verb);
      assert.ok(
        part.commands.some((command) => command.name() === verb),
        verb,
      );
      assert.ok(part.commands.length < program.commands.length, verb);
    }
  });
});
