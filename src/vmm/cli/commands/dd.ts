/** `vioblk dd`: copies blocks of an image into a new one, with dd(1)'s words. */
import { createImage } from "../../../backing/create.ts"
import { removeHostFile } from "../../../backing/host/host-file.ts"
import { openImage } from "../../../backing/open.ts"
import { type Arguments, nameOf, sizeOf, UsageError } from "../arguments.ts"
import { imageNamed } from "../image-name.ts"
import { KeyValues } from "../key-values.ts"
import { longWork } from "../long-work.ts"
import { complain } from "../output.ts"

const KEYS = ["if", "of", "bs", "count", "skip"]
const PIECE = 1 << 20

export async function dd(given: Arguments): Promise<number> {
  const words = wordsOf(given)
  const source = imageNamed(given, words.text("if"))
  const target = nameOf("output", words.text("of"))
  const format = given.choice("output-format", ["raw", "qcow2"]) ?? "raw"
  const block = words.size("bs") ?? 512
  if (block < 1 || block > 2 ** 31 - 1) throw new UsageError(`bs=${block}: it must be from 1 to ${2 ** 31 - 1} bytes`)
  const image = openImage(source.path, {
    passphrase: source.passphrase, readOnly: true, lockReadOnly: true, ignoreLocks: given.flag("force-share"),
    ...(source.format !== undefined && { format: source.format }),
  })
  try {
    const skipped = (words.size("skip") ?? 0) * block
    if (skipped > image.size) complain(`${source.path}: it ends before byte ${skipped}, where the copy begins; the copy is empty`)
    const start = Math.min(skipped, image.size)
    const length = Math.min((words.size("count") ?? Number.MAX_SAFE_INTEGER) * block, image.size - start)
    createImage(target, { format, size: length })
    try {
      await copy(given, image, { start, length, target, format })
    } catch (error) {
      removeHostFile(target)
      throw error
    }
    return 0
  } finally {
    image.close()
  }
}

function wordsOf(given: Arguments): KeyValues {
  for (const word of given.words) if (!word.includes("=")) throw new UsageError(`dd takes words such as if=FILE: "${word}" is not one`)
  const words = new KeyValues("dd", given.words.map((word) => word.replaceAll(",", ",,")), KEYS)
  for (const key of ["bs", "count", "skip"]) {
    const text = words.text(key)
    if (text !== undefined) sizeOf(key, text)
  }
  if (words.text("if") === undefined || words.text("of") === undefined) throw new UsageError("dd needs both if= and of=")
  return words
}

interface Copy {
  /** Bytes. */
  readonly start: number
  readonly length: number
  readonly target: string
  readonly format: "raw" | "qcow2"
}

/** Does not write zeroes, which the new image has already. */
async function copy(given: Arguments, image: ReturnType<typeof openImage>, { start, length, target, format }: Copy): Promise<void> {
  const output = openImage(target, { format })
  try {
    await longWork(given, `${target} is removed; run the command again`, async ({ progress, signal }) => {
      const piece = Buffer.alloc(Math.min(PIECE, length))
      for (let done = 0; done < length; done += PIECE) {
        signal.throwIfAborted()
        const part = piece.subarray(0, Math.min(PIECE, length - done))
        image.pread(part, start + done)
        if (!isZero(part)) output.pwrite(part, done)
        progress(done + part.length, length)
        await new Promise((resolve) => setImmediate(resolve))
      }
      output.flush()
    })
  } finally {
    output.close()
  }
}

function isZero(bytes: Buffer): boolean {
  return bytes.length === 0 || (bytes[0] === 0 && bytes.compare(bytes, 1, bytes.length, 0, bytes.length - 1) === 0)
}
