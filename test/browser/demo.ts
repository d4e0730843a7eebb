/** `npm run demo [-- PORT]` serves the page that shows it. */
import { demoFolder } from "./demo-disk.ts"
import { Site } from "./site.ts"

const port = Number(process.argv[2] ?? 8080)
if (!Number.isInteger(port) || port < 0 || port > 65_535) {
  console.error("demo: the port must be a number from 0 to 65535")
  process.exit(2)
}
console.log("Making the demonstration disk, once ...")
const site = await Site.start({ images: demoFolder(), port })
console.log(`Open ${site.server.origin}/ in a browser. Ctrl-C ends this server.`)
process.on("SIGINT", () => void site.close().then(() => process.exit()))
