package program

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// CheckAddr reports what is wrong with an address to listen at; empty is none.
func CheckAddr(addr string) error {
	if addr == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not of the form HOST:PORT or :PORT", addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q: port %q is not a number from 0 to 65535", addr, port)
	}
	if host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("%q: host %q is not an IP address", addr, host)
		}
	}
	return nil
}

// ParsePrefixes reads CIDRs and single addresses. IPv4 in IPv6 counts as IPv4,
// as it does for clients.
func ParsePrefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		s = strings.TrimSpace(s)
		if addr, err := netip.ParseAddr(s); err == nil {
			addr = addr.Unmap()
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is neither an address nor a CIDR", s)
		case p.Addr().Is4In6() && p.Bits() < 96:
			return nil, fmt.Errorf("%q mixes IPv4 and IPv6", s)
		case p.Addr().Is4In6():
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// LogFlags are level and format of the log.
type LogFlags struct{ Level, Format string }

// Register registers the flags.
func (f *LogFlags) Register(fs *pflag.FlagSet, format string) {
	fs.StringVar(&f.Level, "log-level", "info", "debug, info or error")
	fs.StringVar(&f.Format, "log-format", format, "json or text")
}

// Validate reports what is wrong with them.
func (f *LogFlags) Validate() error {
	var errs []error
	if !slices.Contains([]string{"debug", "info", "error"}, f.Level) {
		errs = append(errs, FlagError("log-level", fmt.Errorf("%q is not debug, info or error", f.Level)))
	}
	if f.Format != "json" && f.Format != "text" {
		errs = append(errs, FlagError("log-format", fmt.Errorf("%q is neither json nor text", f.Format)))
	}
	return errors.Join(errs...)
}
