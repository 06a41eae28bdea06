package admin

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/portico-ingress/portico/router/diag"
)

// ManagedCertificate is one entry of spec.tls that asks Portico for its
// certificate, and how that is getting on. It holds nothing secret. It is also
// one line of /managed?format=json.
type ManagedCertificate struct {
	Ingress string   `json:"ingress"` // namespace/name
	Field   string   `json:"field"`
	Secret  string   `json:"secret"` // namespace/name
	Names   []string `json:"names"`
	Issuer  string   `json:"issuer,omitempty"`
	// Refused says why no certificate is ordered.
	Refused string `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"` // of the refusal, as problems have it
	// NotManaged tells that it is refused because somebody else sees to the
	// certificate: what there is is served.
	NotManaged bool      `json:"notManaged,omitempty"`
	Serial     string    `json:"serial,omitempty"` // hexadecimal; empty: there is no certificate
	NotAfter   time.Time `json:"notAfter,omitzero"`
	// Ordered is since when an order is in flight.
	Ordered time.Time `json:"ordered,omitzero"`
	Next    time.Time `json:"next,omitzero"` // when something is done next
	NextWhy string    `json:"nextWhy,omitempty"`
	// Renewal is when the certificate is to be renewed, whatever is done
	// before.
	Renewal     time.Time `json:"renewal,omitzero"`
	RenewalWhy  string    `json:"renewalWhy,omitempty"`
	Failures    int       `json:"failures,omitempty"` // since the last success
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	// Unwritten says why the Secret was not written; the elected replica
	// knows it.
	Unwritten string `json:"unwritten,omitempty"`
}

// State says in a word or two how a certificate is getting on.
func (m *ManagedCertificate) State(now time.Time) string {
	switch {
	case m.NotManaged && m.Serial != "" && now.After(m.NotAfter):
		return "expired"
	case m.NotManaged:
		return "not managed"
	case m.Refused != "":
		return "refused"
	case !m.Ordered.IsZero():
		return "ordered"
	case m.Serial == "" && m.Failures > 0:
		return "failed"
	case m.Serial == "":
		return "waiting"
	case now.After(m.NotAfter):
		return "expired"
	case m.Failures > 0:
		return "renewal fails"
	}
	return "issued"
}

// ManagedFor returns the entries that list a host: first those that get its
// certificate, then those that somebody else sees to, those that are refused, and
// last those that have no right to the host.
func ManagedFor(list []ManagedCertificate, host string) []ManagedCertificate {
	var out []ManagedCertificate
	for _, m := range list {
		if slices.Contains(m.Names, host) {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b ManagedCertificate) int { return a.rank() - b.rank() })
	return out
}

func (m *ManagedCertificate) rank() int {
	switch {
	case m.Refused == "":
		return 0
	case m.NotManaged:
		return 1
	case m.Reason != "HostNotOwned":
		return 2
	}
	return 3
}

func (s Sources) managed(w http.ResponseWriter, r *http.Request) {
	list := []ManagedCertificate{}
	if s.Managed != nil {
		list = append(list, s.Managed()...)
	}
	answer(w, r, list, func() string { return ManagedText(list, time.Now()) })
}

// ManagedText returns a table for people.
func ManagedText(list []ManagedCertificate, now time.Time) string {
	if len(list) == 0 {
		return "no certificates: no Ingress asks for any, or no issuer is configured\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SECRET\tNAMES\tISSUER\tSTATE\tVALID UNTIL\tRENEWAL\tNEXT\tLAST ERROR")
	for _, m := range list {
		trouble := cmp.Or(m.Refused, m.LastError, m.Unwritten)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Secret, strings.Join(m.Names, ","), cmp.Or(m.Issuer, "-"), m.State(now),
			moment(m.NotAfter), moment(m.Renewal), moment(m.Next), diag.OneLine(cmp.Or(trouble, "-"), diag.MaxNote))
	}
	_ = w.Flush() // into memory
	return b.String()
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
