/** Reads the name of an image: a name with `-f`, or a list of keys with `--image-opts`. */
import { type Arguments, nameOf, UsageError } from "./arguments.ts"
import { KeyValues } from "./key-values.ts"
import { passphraseOf, type PassphraseSource } from "./secrets.ts"

export interface ImageName {
  readonly path: string
  /** The stated format; undefined: probed. */
  readonly format: "raw" | "qcow2" | "luks" | undefined
  /** Returns the passphrase, if the image is encrypted. */
  readonly passphrase: PassphraseSource
}

const FORMATS = ["raw", "qcow2", "luks"] as const
const KEYS = ["driver", "file.driver", "file.filename", "filename", "key-secret", "encrypt.key-secret", "encrypt.format"]

/** The options for a word that names an image. */
export interface NamingOptions {
  /** The option with its format. Default "format". */
  readonly format?: string
  /** The option that makes it a list of keys. Default "image-opts". */
  readonly keyed?: string
  /** Secrets for other purposes, which do not open the image. Default: none. */
  readonly otherSecrets?: readonly string[]
}

/** The only image of a command with FORMAT and IMAGE_OPTS in its row. */
export function imageOf(given: Arguments, options: NamingOptions = {}): ImageName {
  return imageNamed(given, given.image, options)
}

/** The snapshot of `-l`: an ID or a name, or `snapshot.id=ID` or `snapshot.name=NAME`. */
export function snapshotOf(given: Arguments): { readonly snapshot?: string } {
  const text = given.text("snapshot")
  if (text === undefined) return {}
  if (!text.startsWith("snapshot.")) return { snapshot: text }
  const keys = new KeyValues(given.spelling("snapshot"), [text], ["snapshot.id", "snapshot.name"])
  return { snapshot: nameOf("snapshot", keys.text("snapshot.id") ?? keys.text("snapshot.name")) }
}

/** The image that `word` names. */
export function imageNamed(given: Arguments, word: string | undefined, options: NamingOptions = {}): ImageName {
  const { format = "format", keyed = "image-opts", otherSecrets: others = [] } = options
  const name = nameOf("image", word)
  const stated = given.choice(format, FORMATS)
  if (!given.flag(keyed)) return { path: name, format: stated, passphrase: passphraseOf(given, undefined, { others }) }
  if (stated !== undefined) throw new UsageError(`--${keyed} says what the format is: leave out ${given.spelling(format)}`)
  const keys = new KeyValues(`--${keyed}`, [name], KEYS)
  const [driver, path] = [keys.text("driver"), keys.text("file.filename") ?? keys.text("filename")]
  if (path === undefined || path === "") throw new UsageError(`--${keyed} ${name}: file.filename is missing`)
  const fileDriver = keys.text("file.driver") ?? "file"
  if (fileDriver !== "file") throw new UsageError(`--${keyed} file.driver=${fileDriver}: it must be file`)
  // For qemu-img, the driver "file" alone means a raw image.
  const passphrase = passphraseOf(given, keys.text("encrypt.key-secret") ?? keys.text("key-secret"), { others })
  return { path, format: driver === "file" ? "raw" : keys.choice("driver", FORMATS), passphrase }
}
