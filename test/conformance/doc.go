// Package conformance has Portico judged by programs that others wrote: h2spec,
// and gRPC's interoperability tests. It runs the real program on a folder.
package conformance
