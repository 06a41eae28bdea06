//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

// nodeSocket names the node's portico-node: two would take each other's rules for
// damage, and repair them for ever. It is in the abstract namespace of unix
// sockets, which is that of the network, so it needs no file and ends with its
// process, however that ends.
const nodeSocket = "@portico-node"

// errNotAlone says that another portico-node programs this node.
var errNotAlone = errors.New("another portico-node runs on this node")

// claim makes this process the node's portico-node until release is called.
func claim() (release func(), err error) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: nodeSocket})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errNotAlone
	}
	if err != nil {
		return nil, fmt.Errorf("claiming the node: %w", err)
	}
	return func() { _ = c.Close() }, nil
}

const (
	// claimAgain is how often a process that waits for the node looks again.
	claimAgain = 200 * time.Millisecond
	// claimWithin is how long it waits: one that takes over is done sooner, and
	// two that are there to stay must not look healthy.
	claimWithin = time.Minute
)

// await claims the node as soon as it is free.
func await(ctx context.Context, log logr.Logger) (release func(), err error) {
	limit := time.Now().Add(claimWithin)
	for said := false; ; said = true {
		release, err := claim()
		if !errors.Is(err, errNotAlone) || time.Now().After(limit) {
			return release, err
		}
		if !said {
			log.Info("another portico-node runs on this node, this one waits until it ends; there is one for a node, whatever its --service-proxy-name")
		}
		select {
		case <-time.After(claimAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
