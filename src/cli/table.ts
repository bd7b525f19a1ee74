/** Tables of text: aligned columns, the same on a terminal and in a pipe. */

/** A column: its heading and what it shows of a row. */
export interface Column<T> {
  readonly heading: string;
  readonly cell: (row: T) => string;
}

/** The table with its headings, one line a row, each ended by LF. */
export function table<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const headings = columns.map(({ heading }) => heading);
  const lines = [headings, ...rows.map((row) => columns.map(({ cell }) => printable(cell(row))))];
  const widths = headings.map((_, index) => Math.max(...lines.map((cells) => cells[index]?.length ?? 0)));
  const text = lines.map((cells) =>
    cells
      .map((cell, index) => cell.padEnd(widths[index] ?? 0))
      .join('   ')
      .trimEnd(),
  );
  return `${text.join('\n')}\n`;
}

/** The text without control characters: what a container or an image calls itself must not steer a terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (char) => {
    return `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}
