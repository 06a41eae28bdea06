package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/view"
)

// certFlags say which process is asked.
type certFlags struct {
	addr   string
	output string
}

const certLong = `It asks a running Portico at its --debug-addr, so it tells what that process serves
and knows. In a cluster, ask any replica:

  kubectl -n NAMESPACE exec deploy/NAME -- /portico `

func newCert() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Which certificates are served, and how those that Portico gets are getting on",
		Long:  "Cert shows certificates. " + certLong + "cert list",
		Args:  program.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list, why := &certFlags{}, &certFlags{}
	lists := &cobra.Command{
		Use: "list", Short: "List every host's certificate: source, names, issuer, expiry, next renewal, last error",
		Long: "List shows the certificate of every host. " + certLong + "cert list",
		Args: program.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return list.list(cmd.Context(), cmd.OutOrStdout()) },
	}
	list.register(lists.Flags())
	explains := &cobra.Command{
		Use: "why HOST", Short: "Say which certificate a host gets, why that one, and what happens next",
		Long: "Why explains one host's certificate. " + certLong + "cert why HOST",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("cert why takes one host, got %d; see portico cert why --help", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return why.why(cmd.Context(), args[0], cmd.OutOrStdout())
		},
	}
	why.register(explains.Flags())
	cmd.AddCommand(lists, explains)
	return cmd
}

func (f *certFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.addr, "debug-addr", "127.0.0.1:9091", "--debug-addr of the Portico that is asked")
	fs.StringVarP(&f.output, "output", "o", "text", "text or json")
}

// certificateView is one host, or one entry of spec.tls.
type certificateView struct {
	Served  *admin.ServedCertificate   `json:"served,omitempty"`
	Managed []admin.ManagedCertificate `json:"managed,omitempty"`
}

func (f *certFlags) read(ctx context.Context) (served []admin.ServedCertificate, managed []admin.ManagedCertificate, err error) {
	if f.output != "text" && f.output != "json" {
		return nil, nil, program.UsageError(program.FlagError("output", fmt.Errorf("%q is neither text nor json", f.output)))
	}
	if err := program.CheckAddr(f.addr); err != nil {
		return nil, nil, program.UsageError(program.FlagError("debug-addr", err))
	}
	return served, managed, errors.Join(f.get(ctx, "certificates", &served), f.get(ctx, "managed", &managed))
}

// maxPage bounds what is read of a page.
const maxPage = 256 << 20

func (f *certFlags) get(ctx context.Context, page string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	addr := f.addr
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/"+page+"?format=json", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no Portico answers at --debug-addr %s: %w", f.addr, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("what answers at --debug-addr %s is no Portico: %s for /%s", f.addr, resp.Status, page)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxPage)).Decode(v)
}

func (f *certFlags) list(ctx context.Context, out io.Writer) error {
	served, managed, err := f.read(ctx)
	if err != nil {
		return err
	}
	if f.output == "json" {
		views := make([]certificateView, len(served))
		for i := range served {
			views[i] = certificateView{Served: &served[i], Managed: admin.ManagedFor(managed, served[i].Host)}
		}
		return writeJSON(out, views)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tSOURCE\tISSUER\tVALID UNTIL\tSTATE\tRENEWAL\tNEXT\tLAST ERROR")
	for i := range served {
		s := &served[i]
		state, renewal, next, last := "-", "-", "-", cmp.Or(s.Why, "-")
		if list := admin.ManagedFor(managed, s.Host); len(list) > 0 {
			m := list[0]
			state, renewal, next, last = m.State(time.Now()), until(m.Renewal), until(m.Next), cmp.Or(m.Refused, m.LastError, m.Unwritten, "-")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(s.Host, "(default)"), s.Source, oneLine(s.Issuer), until(s.NotAfter), state, renewal, next, oneLine(last))
	}
	return w.Flush()
}

// oneLine is text of a CA, of a certificate or of an apiserver as one line of ours.
func oneLine(text string) string { return diag.OneLine(text, maxLine) }

// maxLine bounds a line, in bytes: one certificate may have many names.
const maxLine = 16 << 10

func (f *certFlags) why(ctx context.Context, name string, out io.Writer) error {
	host, err := view.CanonicalHost(strings.TrimPrefix(name, "*."))
	if err != nil {
		return program.UsageError(fmt.Errorf("%q is not a host: %w", name, err))
	}
	if strings.HasPrefix(name, "*.") {
		host = "*." + host
	}
	served, managed, err := f.read(ctx)
	if err != nil {
		return err
	}
	v := certificateView{Served: servedFor(served, host)}
	v.Managed = admin.ManagedFor(managed, host)
	if len(v.Managed) == 0 && v.Served != nil {
		v.Managed = admin.ManagedFor(managed, v.Served.Host) // by its wildcard
	}
	if f.output == "json" {
		return writeJSON(out, v)
	}
	_, err = io.WriteString(out, v.text(host, time.Now()))
	return err
}

// servedFor returns what a host is served: its own, that of its wildcard, or the
// default certificate, as a handshake selects it.
func servedFor(list []admin.ServedCertificate, host string) *admin.ServedCertificate {
	_, parent, _ := strings.Cut(host, ".")
	var wildcard, fallback *admin.ServedCertificate
	for i := range list {
		switch c := &list[i]; c.Host {
		case host:
			return c
		case "*." + parent:
			wildcard = c
		case "":
			fallback = c
		}
	}
	return cmp.Or(wildcard, fallback)
}

func (v *certificateView) text(host string, now time.Time) string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", key, oneLine(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintf(&b, "%s\n", host)
	if s := v.Served; s != nil {
		line("served", "%s", s.Source)
		line("names", "%s", strings.Join(s.Names, ", "))
		line("signed by", "%s", s.Issuer)
		line("valid until", "%s", lifetime(s.NotAfter, now))
		if s.Host == "" && s.Why == "" {
			line("why", "no spec.tls names the host, so it gets the default certificate")
		}
		if s.Why != "" {
			line("why", "the default certificate is served: %s", s.Why)
		}
	}
	if len(v.Managed) == 0 {
		fmt.Fprintln(&b, "  Portico does not get its certificate: no Ingress with spec.tls for it has annotation portico.dev/issuer or kubernetes.io/tls-acme: \"true\", or no issuer is configured")
	}
	for _, m := range v.Managed {
		by := "asked for by"
		if m.NotManaged {
			by = "named by"
		}
		fmt.Fprintf(&b, "%s Ingress %s, %s\n", by, m.Ingress, m.Field)
		line("state", "%s", m.State(now))
		line("secret", "%s", m.Secret)
		line("hosts", "%s", strings.Join(m.Names, ", "))
		line("issuer", "%s", cmp.Or(m.Issuer, "none"))
		if m.Refused != "" {
			line("why", "%s", m.Refused)
		}
		if m.Unwritten != "" {
			line("not written", "%s", m.Unwritten)
		}
		if !m.Ordered.IsZero() {
			line("ordered", "%s ago", now.Sub(m.Ordered).Round(time.Second))
		}
		if m.LastError != "" {
			line("last error", "%s, %d since the last success: %s", until(m.LastErrorAt), m.Failures, m.LastError)
		}
		if !m.Renewal.IsZero() {
			line("renewal", "%s: %s", lifetime(m.Renewal, now), m.RenewalWhy)
		}
		if !m.Next.IsZero() {
			line("next", "%s: %s", lifetime(m.Next, now), m.NextWhy)
		}
	}
	return b.String()
}

// lifetime is a time and how far away it is.
func lifetime(t, now time.Time) string {
	left := t.Sub(now).Round(time.Second)
	switch {
	case left < 0:
		return fmt.Sprintf("%s (%s ago)", until(t), -left)
	case left > 48*time.Hour:
		return fmt.Sprintf("%s (in %d days)", until(t), left/(24*time.Hour))
	}
	return fmt.Sprintf("%s (in %s)", until(t), left)
}

func until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
