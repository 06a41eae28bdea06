//go:build linux

package kubeproxy

import (
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/portico-ingress/portico/test/netns"
)

// fetch gets a page of a namespace.
func fetch(n *netns.Namespace, address netip.AddrPort, path string) (string, error) {
	var c net.Conn
	var err error
	n.Do(func() { c, err = net.DialTimeout("tcp", address.String(), time.Second) })
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	page, err := io.ReadAll(c)
	return string(page), err
}
