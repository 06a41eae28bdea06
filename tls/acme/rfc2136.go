package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"
)

// RFC2136 is a libdns provider for servers that take dynamic updates (RFC
// 2136) signed with TSIG (RFC 8945), such as BIND, Knot, PowerDNS and
// Microsoft DNS. It is immutable and safe for concurrent use.
type RFC2136 struct {
	server    string // host:port
	keyName   string
	algorithm string
	secret    string // base64
}

// tsigAlgorithms are those of RFC 8945 §6 that are still to be used.
var tsigAlgorithms = map[string]string{
	"hmac-sha256": dns.HmacSHA256, "hmac-sha384": dns.HmacSHA384, "hmac-sha512": dns.HmacSHA512,
}

// NewRFC2136 returns a provider for the server at address, "HOST" or
// "HOST:PORT". The secret is the key in base64; algorithm may be empty, which
// means hmac-sha256.
func NewRFC2136(address, keyName, algorithm, secret string) (*RFC2136, error) {
	if algorithm == "" {
		algorithm = "hmac-sha256"
	}
	alg, ok := tsigAlgorithms[strings.ToLower(algorithm)]
	switch {
	case address == "":
		return nil, errors.New("the address of the DNS server is missing")
	case !ok:
		return nil, fmt.Errorf("TSIG algorithm %q is not hmac-sha256, hmac-sha384 or hmac-sha512", algorithm)
	case keyName == "" || secret == "":
		return nil, errors.New("updates must be signed: give the name of a TSIG key and the file with the key")
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "53")
	}
	return &RFC2136{server: address, keyName: dns.Fqdn(strings.ToLower(keyName)), algorithm: alg, secret: strings.TrimSpace(secret)}, nil
}

// AppendRecords adds records to a zone beside those that are there.
func (p *RFC2136) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	rrs, err := resources(zone, records)
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
	m.Insert(rrs)
	return records, p.send(ctx, m)
}

// DeleteRecords deletes exactly these records from a zone.
func (p *RFC2136) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	rrs, err := resources(zone, records)
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
	m.Remove(rrs)
	return records, p.send(ctx, m)
}

var (
	_ libdns.RecordAppender = (*RFC2136)(nil)
	_ libdns.RecordDeleter  = (*RFC2136)(nil)
)

// resources turns libdns records into those of the wire.
func resources(zone string, records []libdns.Record) ([]dns.RR, error) {
	var out []dns.RR
	for _, r := range records {
		rr := r.RR()
		if rr.Type != "TXT" {
			return nil, fmt.Errorf("a record of type %s is not a challenge", rr.Type)
		}
		out = append(out, &dns.TXT{
			Hdr: dns.RR_Header{
				Name: dns.Fqdn(libdns.AbsoluteName(rr.Name, zone)), Rrtype: dns.TypeTXT, Class: dns.ClassINET,
				Ttl: uint32(max(rr.TTL, time.Minute) / time.Second),
			},
			Txt: chunks(rr.Data),
		})
	}
	return out, nil
}

// chunks cuts a text into the strings of a TXT record (RFC 1035 §3.3.14).
func chunks(text string) []string {
	const limit = 255
	var out []string
	for len(text) > limit {
		out, text = append(out, text[:limit]), text[limit:]
	}
	return append(out, text)
}

// send sends a signed update over TCP and checks the answer's signature.
func (p *RFC2136) send(ctx context.Context, m *dns.Msg) error {
	m.SetTsig(p.keyName, p.algorithm, 300, time.Now().Unix())
	c := &dns.Client{Net: "tcp", Timeout: 10 * time.Second, TsigSecret: map[string]string{p.keyName: p.secret}}
	answer, _, err := c.ExchangeContext(ctx, m, p.server)
	if answer != nil && answer.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("DNS server %s refuses the update: %s%s", p.server, dns.RcodeToString[answer.Rcode], tsigError(answer))
	}
	if err != nil {
		return fmt.Errorf("updating DNS server %s: %w", p.server, err)
	}
	return nil
}

// tsigError says what the server did not like about the signature.
func tsigError(answer *dns.Msg) string {
	if sig := answer.IsTsig(); sig != nil && sig.Error != dns.RcodeSuccess {
		return " (" + dns.RcodeToString[int(sig.Error)] + ": check name, algorithm and secret of the key, and the clocks)"
	}
	return ""
}
