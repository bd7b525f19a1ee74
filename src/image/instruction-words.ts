/** Words of a Dockerfile instruction: separated by blanks, held together by quotation marks or a backslash. Pure. */

/** The words of a line with their quotation marks taken off; undefined when a quotation mark stays open. */
export function splitWords(text: string): string[] | undefined {
  const words: string[] = [];
  let word: string | undefined;
  let quote: string | undefined;
  for (let index = 0; index < text.length; index += 1) {
    const char = text.charAt(index);
    const next = text.charAt(index + 1);
    if (char === '\\' && quote !== "'" && next !== '') {
      // Inside quotation marks a backslash is itself unless it protects something.
      word = (word ?? '') + (quote === undefined || next === quote || next === '\\' ? next : `\\${next}`);
      index += 1;
    } else if (char === quote) {
      quote = undefined;
    } else if (quote === undefined && (char === '"' || char === "'")) {
      quote = char;
      word ??= '';
    } else if (quote === undefined && /\s/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else {
      word = (word ?? '') + char;
    }
  }
  if (quote !== undefined) return undefined;
  if (word !== undefined) words.push(word);
  return words;
}
