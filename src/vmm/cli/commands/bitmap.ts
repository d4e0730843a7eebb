/** `vioblk bitmap`: adds, removes, clears, enables, disables and merges persistent bitmaps, like `qemu-img bitmap`. */
import { BackingError } from "../../../backing/backing.ts"
import { openImage } from "../../../backing/open.ts"
import { Qcow2Image } from "../../../backing/qcow2/image.ts"
import type { Bitmaps } from "../../../backing/qcow2/bitmaps/bitmaps.ts"
import { type Arguments, nameOf, UsageError } from "../arguments.ts"
import { imageNamed, type ImageName } from "../image-name.ts"

const ACTIONS = ["add", "remove", "clear", "enable", "disable", "merge"] as const
type Action = (typeof ACTIONS)[number]

export async function bitmap(given: Arguments): Promise<number> {
  const [word, name, extra] = given.words
  const actions = given.inOrder(ACTIONS)
  if (actions.length === 0) throw new UsageError("bitmap needs an action: --add, --remove, --clear, --enable, --disable or --merge SOURCE")
  const target = imageNamed(given, word)
  nameOf("bitmap", name)
  if (extra !== undefined) throw new UsageError(`bitmap takes an image and a bitmap: "${extra}" is one word too many`)
  const source = given.text("source-file")
  const granularity = given.size("granularity")
  if (granularity !== undefined && !given.flag("add")) throw new UsageError(`${given.spelling("granularity")} needs --add`)
  if (source !== undefined && !given.flag("merge")) throw new UsageError(`${given.spelling("source-file")} needs --merge`)
  const sourceFormat = given.choice("source-format", ["raw", "qcow2"])
  if (sourceFormat !== undefined && source === undefined) throw new UsageError(`${given.spelling("source-format")} needs -b`)
  const from = source === undefined ? undefined : { path: source, format: sourceFormat, passphrase: target.passphrase }
  withBitmaps(target, { readOnly: false }, (bitmaps) => {
    const work = (others: Bitmaps): void => {
      for (const { name: action, value } of actions) act(bitmaps, name ?? "", { action, from: value, others, granularity })
    }
    if (from === undefined) work(bitmaps)
    else withBitmaps(from, { readOnly: true }, work)
  })
  return 0
}

interface Step {
  readonly action: Action
  /** The source of `--merge`. */
  readonly from: string
  readonly others: Bitmaps
  readonly granularity: number | undefined
}

function act(bitmaps: Bitmaps, name: string, { action, from, others, granularity }: Step): void {
  if (action === "merge") bitmaps.merge(name, from, others)
  else if (action === "add") bitmaps.add(name, granularity === undefined ? {} : { granularity })
  else bitmaps[action](name)
}

function withBitmaps(target: ImageName, options: { readonly readOnly: boolean }, work: (bitmaps: Bitmaps) => void): void {
  const { path, format, passphrase } = target
  const image = openImage(path, { ...options, passphrase, ...(format !== undefined && { format }) })
  try {
    if (!(image instanceof Qcow2Image)) throw new BackingError("unsupported", "a raw image has no bitmaps", { path })
    work(image.bitmaps)
  } finally {
    image.close()
  }
}
