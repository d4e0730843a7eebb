/** `vioblk commit`: writes the data of an image into its backing file. Exit codes as those of `qemu-img commit`. */
import { commitImage } from "../../../backing/operations/commit-image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { imageOf } from "../image-name.ts"
import { longWork } from "../long-work.ts"
import { complain, print } from "../output.ts"

export async function commit(given: Arguments): Promise<number> {
  const { path, format, passphrase } = imageOf(given)
  if (format === "raw") {
    complain(`${path}: a raw image has no backing file to commit to`)
    return 1
  }
  const base = given.text("base")
  const rate = given.size("rate-limit")
  if (rate === 0) throw new UsageError(`${given.spelling("rate-limit")} 0: nothing would ever be written`)
  const options = {
    // With -b, qemu-img implies -d, because files between the image and its base may have data too.
    keep: base !== undefined || given.flag("keep-content"),
    ...(base !== undefined && { base }), ...(rate !== undefined && { rate }),
  }
  await longWork(
    given,
    `${path} still holds all of it; run the command again`,
    (watch) => commitImage(path, { passphrase, ...options, ...watch }),
  )
  if (!given.flag("quiet")) print("Image committed.")
  return 0
}
