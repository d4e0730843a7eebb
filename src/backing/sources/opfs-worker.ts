/**
 * The worker of `opfsFile` as a separate module, for a page whose Content Security Policy forbids workers from blob: URLs. The page
 * makes it, `new Worker(url, { type: "module" })`, and passes it to `opfsFile`.
 */
import { type OpfsScope, serveOpfs } from "./opfs-service.ts"

serveOpfs(globalThis as unknown as OpfsScope)
