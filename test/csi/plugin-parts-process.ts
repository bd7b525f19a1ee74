/**
 * A plugin as a process of its own that serves chosen parts: `plugin-parts-process.ts NAME both=ENDPOINT`, or
 * `controller=ENDPOINT node=ENDPOINT`. It says on its standard output where it listens.
 */
import { PluginServer } from './plugin-server.ts';

const [name = '', ...places] = process.argv.slice(2);
for (const place of places) {
  const [part, endpoint = ''] = place.split('=');
  const server = new PluginServer({
    path: endpoint.replace('unix://', ''),
    name,
    // Each socket speaks of all parts, as programs do that are one binary.
    services: ['CONTROLLER_SERVICE'],
    ...(part === 'node' ? {} : { controller: ['CREATE_DELETE_VOLUME'] }),
    ...(part === 'controller' ? {} : { node: [] }),
  });
  await server.listen();
  console.log(`${part} listens`);
}
