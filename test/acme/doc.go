// Package acme tests the getting of certificates against a real ACME server,
// a real DNS server and a real apiserver.
package acme
