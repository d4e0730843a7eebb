/**
 * Reads passphrases of encrypted images from a file, the environment or the terminal, and never from the command line, which other users of
 * the host can read.
 */
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs"
import { BackingError } from "../../backing/backing.ts"
import type { EncryptedImage, Passphrase } from "../../backing/luks/passphrase.ts"
import { type Arguments, UsageError } from "./arguments.ts"
import { KeyValues } from "./key-values.ts"

const VARIABLE = "VIOBLK_PASSPHRASE"
const NEW_VARIABLE = "VIOBLK_NEW_PASSPHRASE"
const LINE_END = 10

/** Returns the passphrase of an image that is encrypted. */
export type PassphraseSource = (image: EncryptedImage) => Passphrase

export interface AskingOptions {
  /** Secrets for other purposes. Default: none. */
  readonly others?: readonly string[]
  /** The image is not made yet: the terminal asks twice. Default false. */
  readonly isNew?: boolean
}

/**
 * The source of the passphrase: the `--object` named `secret`, or else `--passphrase-file`, the only `--object`, the environment, or the
 * terminal. @throws UsageError for a wrong object, and for a missing secret
 */
export function passphraseOf(given: Arguments, secret?: string, { others = [], isNew = false }: AskingOptions = {}): PassphraseSource {
  const secrets = secretsOf(given)
  for (const other of others) secrets.delete(other)
  const only = secrets.size === 1 ? [...secrets.values()][0] : undefined
  const file = secret === undefined ? (given.text("passphrase-file") ?? only) : fileOf(secretsOf(given), secret)
  return (image) => {
    if (file !== undefined) return readKeyFile(file)
    const text = process.env[VARIABLE]
    if (text !== undefined) return text
    if (process.stdin.isTTY) return (isNew ? askTwice : askTerminal)(`Passphrase of ${image.path}: `, image)
    const ways = `give --passphrase-file FILE, --object secret,id=ID,file=FILE or the environment variable ${VARIABLE}`
    throw new BackingError("invalid-argument", `the image is encrypted: ${ways}`, { path: image.path })
  }
}

/**
 * The source of an additional passphrase: the `--object` named `secret`, or else `--new-passphrase-file`, the environment, or the terminal,
 * which asks twice. @throws as `passphraseOf`
 */
export function newPassphraseOf(given: Arguments, secret: string | undefined): PassphraseSource {
  const file = secret === undefined ? given.text("new-passphrase-file") : fileOf(secretsOf(given), secret)
  return (image) => {
    if (file !== undefined) return readKeyFile(file)
    const text = process.env[NEW_VARIABLE]
    if (text !== undefined) return text
    if (process.stdin.isTTY) return askTwice(`New passphrase of ${image.path}: `, image)
    const ways = `give --new-passphrase-file FILE, --object secret,id=ID,file=FILE with new-secret=ID, or the variable ${NEW_VARIABLE}`
    throw new BackingError("invalid-argument", `there is no new passphrase: ${ways}`, { path: image.path })
  }
}

/** The content of the `--object` named `secret`, read when it is needed. @throws UsageError for a missing secret */
export function givenSecret(given: Arguments, secret: string): () => Passphrase {
  const file = fileOf(secretsOf(given), secret)
  return () => readKeyFile(file)
}

function fileOf(secrets: ReadonlyMap<string, string>, secret: string): string {
  const file = secrets.get(secret)
  if (file === undefined) throw new UsageError(`there is no --object secret,id=${secret},file=FILE`)
  return file
}

/** The files of all secrets, by id. */
function secretsOf(given: Arguments): Map<string, string> {
  const secrets = new Map<string, string>()
  for (const text of given.texts("object")) {
    const [type, ...list] = text.split(/,(.*)/s)
    if (type !== "secret") throw new UsageError(`--object ${text}: the only object is secret,id=ID,file=FILE`)
    const keys = new KeyValues("--object", [list[0] ?? ""], ["id", "file", "data", "format"])
    if (keys.text("data") !== undefined) {
      throw new UsageError("--object secret,data=...: others can read the command line; put the passphrase into a file, and give file=FILE")
    }
    keys.choice("format", ["raw"])
    const [id, file] = [keys.text("id"), keys.text("file")]
    if (id === undefined || file === undefined) throw new UsageError(`--object ${text}: id=ID and file=FILE are needed`)
    secrets.set(id, file)
  }
  return secrets
}

/** All bytes of the file, as in QEMU: a line end at its end counts. */
function readKeyFile(file: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(file))
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new BackingError("invalid-argument", `the passphrase cannot be read: ${reason}`, { path: file })
  }
}

/** Asks twice, because a typing error in a new passphrase would lock everybody out. */
function askTwice(prompt: string, image: EncryptedImage): Passphrase {
  const first = askTerminal(prompt, image)
  if (!Buffer.from(first).equals(askTerminal("The same again: ", image))) {
    throw new BackingError("invalid-argument", "the two passphrases differ; run the command again", { path: image.path })
  }
  return first
}

/** Reads a line from the terminal without echo. */
function askTerminal(prompt: string, { path }: EncryptedImage): Uint8Array {
  const terminal = openSync("/dev/tty", "r+")
  const bytes: number[] = []
  try {
    writeSync(terminal, prompt)
    process.stdin.setRawMode(true)
    const byte = new Uint8Array(1)
    while (readSync(terminal, byte, 0, 1, null) === 1) {
      const [code = 0] = byte
      if (code === 3 || code === 4) throw new BackingError("invalid-argument", "no passphrase was given", { path })
      if (code === 13 || code === LINE_END) break
      if (code === 127 || code === 8) bytes.pop()
      else bytes.push(code)
    }
    return Uint8Array.from(bytes)
  } finally {
    process.stdin.setRawMode(false)
    writeSync(terminal, "\n")
    closeSync(terminal)
  }
}
