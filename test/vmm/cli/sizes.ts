/** Sizes in QEMU's notation, and what they mean; undefined for what is none. */

const NONE = [
  ".5k", "1.5", "1.5b", "1e3", "-5", "5 ", "", "k", "1kk", "1KiB", "1kB", "0x1.8k", "0x", "8E", "16E", "99999999999999999999", "1..5k",
  "1,5G",
  "inf", "nan", "1s", "1.5x", "0x1kk",
]

export const SIZES: readonly (readonly [string, number | undefined])[] = [
  ["1.5G", 1.5 * 2 ** 30], ["1b", 1], ["1B", 1], ["0x1000", 4096], ["0X10", 16], ["0x10k", 16384], ["010", 10], ["1.k", 1024], ["1.", 1],
  ["1.0", 1], ["+5", 5], [" 5", 5], ["0.1k", 102], ["0.3333M", 349490], ["1.0001k", 1024], ["0", 0], ["512", 512], ["3T", 3 * 2 ** 40],
  ["1P", 2 ** 50], ["1e", 2 ** 60], ["7.5E", 7.5 * 2 ** 60], ["0x1b", 27],
  ...NONE.map((text) => [text, undefined] as const),
]
