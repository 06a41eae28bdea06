package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/certs"
	"github.com/portico-ingress/portico/controllers/ingress"
	"github.com/portico-ingress/portico/controllers/manifest"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/explain"
	"github.com/portico-ingress/portico/router/publish"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/acme"
	"github.com/portico-ingress/portico/tls/certstore"
)

type explainFlags struct {
	paths      []string
	kubeconfig string
	namespaces []string
	method     string
	headers    []string
	from       string
	trusted    []string
	output     string
	localCA    bool
	routing    routingFlags
}

func newExplain() *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain URL (-f DIR|FILE|- | --kubeconfig FILE)",
		Short: "Say where a request goes, and why",
		Long: `Explain matches one request as the proxy would and shows the host, the
candidate paths in order and why not, the Ingress that wins, the backend with
its endpoints, and the certificate. Objects come from manifests (-f) or from a
cluster (--kubeconfig, or the current context if neither is given).

Exit code: 0 if the request is routed to a ready endpoint, 1 if it is not, 2 if
the input is wrong.`,
		Example: "  portico explain https://shop.localhost:8443/api/orders -f config/samples\n  portico explain http://shop.example.com/ -X POST --from 10.1.2.3 --trusted-proxies 10.0.0.0/8 -H 'X-Forwarded-Proto: https'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("explain takes one URL, got %d; see portico explain --help", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVarP(&f.paths, "filename", "f", nil, "folder, file, or - for standard input; repeatable")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", program.KubeconfigUsage)
	fs.StringSliceVar(&f.namespaces, "namespaces", nil, "namespaces to look at (default: all)")
	fs.StringVarP(&f.method, "request", "X", "GET", "method of the request")
	fs.StringArrayVarP(&f.headers, "header", "H", nil, `header field of the request, "Name: value"; repeatable; Host replaces the URL's host, X-Forwarded-* count with --trusted-proxies`)
	fs.StringVar(&f.from, "from", "", "address that the connection comes from (default: 192.0.2.1)")
	fs.StringSliceVar(&f.trusted, "trusted-proxies", nil, "addresses or CIDRs of proxies in front whose X-Forwarded-* fields are believed")
	fs.StringVarP(&f.output, "output", "o", "text", "text or json")
	fs.BoolVar(&f.localCA, "local-ca", true, "with -f: hosts below localhost whose Secret is missing have a certificate of the issuer local")
	f.routing.register(fs)
	return cmd
}

func (f *explainFlags) run(ctx context.Context, url string, stdin io.Reader, stdout, stderr io.Writer) error {
	in := explain.Input{URL: url, Method: f.method, Headers: f.headers}
	r, err := f.routing.options()
	errs := []error{err}
	if f.from != "" {
		if in.From, err = netip.ParseAddr(f.from); err != nil {
			errs = append(errs, program.FlagError("from", fmt.Errorf("%q is not an address", f.from)))
		}
	}
	if in.Trust, err = program.ParsePrefixes(f.trusted); err != nil {
		errs = append(errs, program.FlagError("trusted-proxies", err))
	}
	if f.output != "text" && f.output != "json" {
		errs = append(errs, program.FlagError("output", fmt.Errorf("%q is neither text nor json", f.output)))
	}
	if len(f.paths) > 0 && f.kubeconfig != "" {
		errs = append(errs, program.FlagError("filename", errors.New("give either manifests or --kubeconfig")))
	}
	if err := errors.Join(errs...); err != nil {
		return program.UsageError(err)
	}
	policy, err := dialPolicy(nil, len(f.paths) > 0)
	if err != nil {
		return err
	}
	r.translate.CheckAddr = policy.Check
	objects, faults, err := f.objects(ctx, r, stdin, stderr)
	if err != nil {
		return program.UsageError(err)
	}
	report, err := explainObjects(objects, r, in, len(f.paths) > 0 && f.localCA)
	if err != nil {
		return program.UsageError(err)
	}
	return f.finish(report, faults, stdout)
}

func (f *explainFlags) finish(report *explain.Report, faults int, stdout io.Writer) error {
	write := report.WriteText
	if f.output == "json" {
		write = report.WriteJSON
	}
	if err := write(stdout); err != nil {
		return err
	}
	switch {
	case faults > 0:
		return program.UsageError(fmt.Errorf("faults in the manifests: %d; this is what the rest of them does", faults))
	case !report.Routed():
		return &program.CodedError{Code: exitNotRouted}
	}
	return nil
}

// objects reads the manifests or the cluster. What is wrong but does not stop
// an explanation goes to stderr; faults counts what is wrong with manifests.
func (f *explainFlags) objects(ctx context.Context, r *routing, stdin io.Reader, stderr io.Writer) (o *translate.Objects, faults int, err error) {
	if len(f.paths) == 0 {
		o, err = f.clusterObjects(ctx, r, stderr)
		return o, 0, err
	}
	if err := checkPaths(f.paths); err != nil {
		return nil, 0, err
	}
	var text []byte
	if slices.Contains(f.paths, manifest.Stdin) {
		if text, err = io.ReadAll(stdin); err != nil {
			return nil, 0, err
		}
	}
	set, found := manifest.LoadFrom(bytes.NewReader(text), f.paths...)
	for _, fault := range found {
		fmt.Fprintln(stderr, fault)
	}
	r.translate.Folder = true
	return &translate.Objects{
		Ingresses: set.Ingresses, Classes: set.Classes, Services: set.Services,
		Slices: set.Slices, Endpoints: set.Endpoints, Secrets: set.Secrets,
	}, len(found), nil
}

func (f *explainFlags) clusterObjects(ctx context.Context, r *routing, stderr io.Writer) (*translate.Objects, error) {
	kube, err := loadKube(f.kubeconfig)
	if err != nil {
		return nil, err
	}
	objects, refused, err := ingress.Load(ctx, kube.Config, ingress.LoadOptions{Namespaces: f.namespaces, DefaultTLSSecret: r.defaultTLS})
	for _, why := range refused {
		fmt.Fprintln(stderr, "not readable:", why)
	}
	return objects, err
}

// explainObjects compiles the objects as the proxy does and explains one
// request.
func explainObjects(objects *translate.Objects, r *routing, in explain.Input, localCA bool) (*explain.Report, error) {
	world := translate.All(r.translate, objects, defaultPools(r.router.Default)...)
	store, err := certstore.New(certstore.Options{})
	if err != nil {
		return nil, err
	}
	store.SetDefault(r.defaultTLS)
	store.ReplaceSecrets(world.Certificates, world.SecretProblems)
	if localCA {
		if err := fillLocal(store, objects, world, r.translate); err != nil {
			return nil, err
		}
	}
	var ings []*router.Ingress
	for _, e := range world.Entries {
		ings = append(ings, e.Ingress)
	}
	table := router.Compile(r.router, ings)
	store.SetClaims(publish.Claims(table), nil)
	return explain.Explain(explain.Source{
		Table: table, Certs: store,
		State:               func(k upstream.Key) *upstream.State { return world.Pools[k] },
		Credentials:         func(ref upstream.SecretRef) *upstream.Credentials { return world.Credentials[ref] },
		RequireVerification: r.translate.RequireVerification,
		Aside:               func(host, ingress string) []string { return aside(world, table, host, ingress) },
	}, in)
}

// aside returns the Ingresses that name a host and are not served, and the
// problems of every Ingress that names it or was chosen.
func aside(world *translate.World, table *router.Table, host, ingress string) []string {
	var notes []string
	covers := func(named string) bool {
		return strings.EqualFold(named, host) || strings.HasPrefix(named, "*.") && strings.EqualFold(named[1:], view.WildcardOf(host))
	}
	for _, s := range world.Skipped {
		if slices.ContainsFunc(s.Hosts, covers) {
			notes = append(notes, fmt.Sprintf("%s names the host and is not served: %s", s.Object, s.Why))
		}
	}
	concerned := map[string]bool{ingress: true}
	problems := table.Problems()
	for _, e := range world.Entries {
		problems = append(problems, e.Problems...)
		for _, r := range e.Ingress.Rules {
			if r.Host != "" && covers(r.Host) {
				concerned[e.Ingress.Origin.Name()] = true
			}
		}
	}
	for _, p := range diag.Sort(problems) {
		if concerned[p.Object.Namespace+"/"+p.Object.Name] {
			notes = append(notes, p.String())
		}
	}
	return notes
}

// fillLocal stands in for serve's local issuer: which certificate is served is the
// same, so a CA of the moment will do, and nothing is written.
func fillLocal(store *certstore.Store, objects *translate.Objects, world *translate.World, opts translate.Options) error {
	issuer := acme.Local()
	missing := func(ref certstore.SecretRef) bool {
		_, usable := world.Certificates[ref]
		_, useless := world.SecretProblems[ref]
		return !usable && !useless
	}
	ours := slices.DeleteFunc(translate.NewClasses(opts, objects.Classes).Only(objects.Ingresses), func(ing *networkingv1.Ingress) bool {
		return translate.CertificateWish(ing.Annotations).By == translate.IssuerAnnotation
	})
	for _, u := range certs.UnaskedFor(issuer, ours, missing) {
		chain, key, err := acme.IssueOnce(issuer, u.Names, time.Now())
		if err != nil {
			return err
		}
		cert, err := certstore.Parse(chain, key)
		if err != nil {
			return err
		}
		cert.Source = "issuer " + issuer.Name
		store.SetStandIn(u.Secret, certstore.StandIn{Certificate: cert})
	}
	return nil
}
