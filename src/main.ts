/** The entry of `berthd`: what is loaded after the first line comes out of the compile cache. */
import { enableCompileCache } from 'node:module';
import { COMPILE_CACHE_DIR } from './compile-cache.ts';

enableCompileCache(COMPILE_CACHE_DIR);
await import('./berthd.ts');
