/** NBD URIs: those of the document, and those that nobody should believe. */
import { expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { parseNbdUri } from "../../../src/backing/nbd/client/uri.ts"

const codeOf = (uri: string): { code: string; message: string } => {
  try {
    parseNbdUri(uri)
  } catch (error) {
    if (error instanceof BackingError) return { code: error.code, message: error.message }
    throw error
  }
  return { code: "none", message: "" }
}

it.each([
  ["nbd://example.com/disk", { host: "example.com", port: 10_809 }, "disk"],
  ["nbd://example.com", { host: "example.com", port: 10_809 }, ""],
  ["nbd://example.com/", { host: "example.com", port: 10_809 }, ""],
  ["nbd://example.com:1234//disk", { host: "example.com", port: 1234 }, "/disk"],
  ["nbd://example.com/hello%20world", { host: "example.com", port: 10_809 }, "hello world"],
  ["nbd://example.com/a/../b+c%2Fd", { host: "example.com", port: 10_809 }, "a/../b+c/d"],
  ["NBD://[::1]:10/%C3%9F", { host: "::1", port: 10 }, "ß"],
  ["nbd:///x", { host: "localhost", port: 10_809 }, "x"],
  ["nbd+unix:///disk?socket=sock", { socket: "sock" }, "disk"],
  ["nbd+unix:///?socket=/tmp/a+b%20c", { socket: "/tmp/a+b c" }, ""],
  ["nbd+unix:///?socket=%00/abstract", { socket: "\0/abstract" }, ""],
] as const)("%s", (uri, target, exportName) => {
  expect(parseNbdUri(uri)).toEqual({ uri, target, exportName, tls: false })
})

it("nbds demands TLS, and may name the host of the certificate", () => {
  expect(parseNbdUri("nbds://h/x?tls-type=x509&tls-verify-peer=1")).toMatchObject({ tls: true, exportName: "x" })
  expect(parseNbdUri("nbds+unix:///?socket=s&tls-hostname=h.example")).toMatchObject({ tls: true, tlsHostname: "h.example" })
})

it.each([
  ["http://example.com/", /not an NBD URI/], ["nbd:/x", /not an NBD URI/], ["nbd://h/x#y", /not an NBD URI/], ["", /not an NBD URI/],
  ["nbd://h/a b", /spaces/], ["nbd://h/a\nb", /spaces/], ["nbd://h/\0", /spaces/], ["nbd://h/%00", /NUL/], ["nbd://h/%", /hexadecimal/],
  ["nbd://h/%ff", /hexadecimal/], ["nbd://h:0/", /port/], ["nbd://h:65536/", /port/], ["nbd://h:x/", /host or the port/],
  ["nbd://a,b/", /host or the port/], ["nbd://u@h/", /user names/], ["nbd://h/?socket=s", /socket= belongs/],
  ["nbd+unix:///x", /socket=PATH is missing/], ["nbd+unix:///x?socket=", /socket=PATH is missing/], ["nbd+unix://h/x?socket=s", /no host/],
  ["nbd+unix:///?socket=a%00b", /NUL/],
  [`nbd+unix:///?socket=${"s".repeat(108)}`, /107 bytes/], ["nbd+unix:///?socket=a&socket=b", /twice/],
  ["nbd://h/?tls-verify-peer=0", /not supported/], ["nbd://h/?tls-type=psk", /not supported/], ["nbd://h/?wrong", /not supported/],
  [`nbd://h/${"x".repeat(4097)}`, /4096 bytes/], [`nbd://h/${"x".repeat(100_000)}`, /100008 characters/],
])("refuses %j", (uri, message) => {
  const error = codeOf(uri)
  expect(error.code).toBe("invalid-argument")
  expect(error.message).toMatch(message)
  expect(error.message).not.toMatch(/[\n\0]/)
  expect(error.message.length).toBeLessThan(500)
})
