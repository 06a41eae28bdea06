//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

// nodeSocket names the node's portico-node: two would take each other's rules for
// damage, and repair them for ever. It is in the abstract namespace of unix
// sockets, which is that of the network, so it needs no file and ends with its
// process, however that ends.
const nodeSocket = "@portico-node"

var (
	// errNotAlone says that another portico-node programs this node.
	errNotAlone = errors.New("another portico-node runs on this node")
	// errImpostor says that the name is another user's, who cannot program it.
	errImpostor = errors.New("the name by which portico-node claims a node is held by a process of another user")
)

// claim makes this process the node's portico-node until release is called. Anybody
// may take a name in the abstract namespace, so it counts only of whose user may be
// a portico-node; errImpostor tells of another, and is no reason not to go on.
func claim() (release func(), err error) {
	c, err := net.Listen("unix", nodeSocket)
	if errors.Is(err, unix.EADDRINUSE) {
		if uid, err := holder(); err == nil && uid != 0 && uid != uint32(os.Geteuid()) {
			return func() {}, fmt.Errorf("%w (uid %d)", errImpostor, uid)
		}
		return nil, errNotAlone
	}
	if err != nil {
		return nil, fmt.Errorf("claiming the node: %w", err)
	}
	return func() { _ = c.Close() }, nil
}

// holder returns the user of the process that has the name.
func holder() (uid uint32, err error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: nodeSocket})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return peer.Uid, nil
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
		if errors.Is(err, errImpostor) {
			log.Error(err, "going on without the claim; nothing keeps a second portico-node from starting", "socket", nodeSocket, "advice", "end that process")
			return release, nil
		}
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
