// Package certs gets the certificates that Ingresses ask for. Every replica
// decides, from the same objects, which certificates there are to be, serves
// what is stored of them, and answers the challenges of orders; the elected one
// places the orders, writes the Secrets that spec.tls names, and tells of each
// step in Events.
package certs
