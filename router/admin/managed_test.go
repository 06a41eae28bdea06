package admin_test

import (
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/admin"
)

func TestState(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	soon, past := now.Add(time.Hour), now.Add(-time.Hour)
	for want, m := range map[string]admin.ManagedCertificate{
		"refused":       {Refused: "not yours", Serial: "1", NotAfter: soon, Ordered: past},
		"not managed":   {Refused: "theirs", NotManaged: true, Serial: "1", NotAfter: soon},
		"ordered":       {Ordered: past, Failures: 2},
		"failed":        {Failures: 1},
		"waiting":       {},
		"expired":       {Serial: "1", NotAfter: past, Failures: 3},
		"renewal fails": {Serial: "1", NotAfter: soon, Failures: 1},
		"issued":        {Serial: "1", NotAfter: soon},
	} {
		if got := m.State(now); got != want {
			t.Errorf("%+v: %s, want %s", m, got, want)
		}
	}
}

// The entry that gets a host's certificate comes first, whoever else claims it.
func TestManagedFor(t *testing.T) {
	host := []string{"a.example"}
	list := admin.ManagedFor([]admin.ManagedCertificate{
		{Ingress: "evil/web", Names: host, Refused: "not yours", Reason: "HostNotOwned"}, {Ingress: "a/bad", Names: host, Refused: "no", Reason: "IssuerNotPermitted"},
		{Ingress: "a/theirs", Names: host, Refused: "theirs", NotManaged: true}, {Ingress: "a/web", Names: host}, {Ingress: "a/other", Names: []string{"b.example"}},
	}, "a.example")
	var got []string
	for _, m := range list {
		got = append(got, m.Ingress)
	}
	if want := "a/web a/theirs a/bad evil/web"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// What asks for certificates is counted by how it is getting on, refusals too, and
// a host has one date of renewal, whoever else claims it.
func TestManagedMetrics(t *testing.T) {
	f, m := newFixture(t), admin.NewMetrics()
	at := time.Unix(4_000_000_000, 0)
	f.sources.Managed = func() []admin.ManagedCertificate {
		return []admin.ManagedCertificate{
			{Names: []string{"a.example"}, Issuer: "le", Serial: "1", NotAfter: at.Add(time.Hour), Renewal: at.Add(time.Minute)},
			{Names: []string{"a.example", "b.example"}, Issuer: "le", Serial: "1", NotAfter: at, Renewal: at, Failures: 2},
			{Names: []string{"a.example"}, Issuer: "le", Refused: "no", Reason: "IssuerNotPermitted"},
			{Names: []string{"c.example"}, Refused: "theirs", NotManaged: true},
		}
	}
	m.Watch(f.sources)
	has(t, admin.New(m, noChecks), "/metrics",
		`portico_certificate_entries{issuer="le",state="issued"} 1`, `portico_certificate_entries{issuer="le",state="renewal_fails"} 1`,
		`portico_certificate_entries{issuer="le",state="refused"} 1`, `portico_certificate_entries{issuer="",state="not_managed"} 1`,
		`portico_certificate_renewal_timestamp_seconds{host="a.example"} 4e+09`, `portico_certificate_renewal_timestamp_seconds{host="b.example"} 4e+09`)
}

func TestManaged(t *testing.T) {
	f := newFixture(t)
	const url = "http://127.0.0.1:9091/managed"
	has(t, admin.NewDebug(f.sources), url, "no certificates")
	f.sources.Managed = func() []admin.ManagedCertificate {
		return []admin.ManagedCertificate{
			{Ingress: "shop/web", Secret: "shop/web-tls", Names: []string{"a.example", "b.example"}, Issuer: "le", Serial: "2a",
				NotAfter: time.Date(2126, 5, 1, 0, 0, 0, 0, time.UTC), Unwritten: "it cannot be read"},
			{Ingress: "shop/old", Secret: "shop/old-tls", Names: []string{"c.example"}, Refused: "it was made by somebody else"},
		}
	}
	h := admin.NewDebug(f.sources)
	has(t, h, url, "shop/web-tls  a.example,b.example  le      issued   2126-05-01T00:00:00Z  -        -     it cannot be read", "shop/old-tls  c.example            -       refused  -                     -        -     it was made by somebody else")
	var list []map[string]any
	decode(t, has(t, h, url+"?format=json"), &list)
	if len(list) != 2 || list[0]["serial"] != "2a" || list[1]["refused"] == "" {
		t.Errorf("%v", list)
	}
	if _, there := list[1]["notAfter"]; there || strings.Contains(has(t, h, url+"?format=json"), "0001-01-01") {
		t.Errorf("times that are not known are shown: %v", list[1])
	}
}
