//! What servers that speak like S3 are known to want.

use super::super::Deletion;

/// What a provider is known by, and what differs there from a server that nothing is known about.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) name: &'static str,
    hosts: &'static [Host],
    region: Region,
    /// The bucket is named in the path of requests.
    pub(super) path_style: bool,
    /// `If-None-Match` and `If-Match` are honoured where objects are stored.
    pub(super) conditional_writes: bool,
    /// Requests that delete many objects have a `Content-MD5`.
    pub(super) content_md5: bool,
    pub(super) deletion: Deletion,
    /// What every request says.
    pub(super) headers: &'static [(&'static str, &'static str)],
}

/// What the host of an endpoint is, without its port.
#[derive(Debug)]
enum Host {
    Is(&'static str),
    EndsIn(&'static str),
    /// Whatever it is, a port is named with it.
    WithPort,
}

/// Where the region that requests are signed for comes from.
#[derive(Debug)]
enum Region {
    Is(&'static str),
    /// It stands before the ending of the host.
    InHost,
    /// Nothing is known.
    Unknown,
}

/// What is true of a server that nothing is known about.
pub(super) const UNKNOWN: Provider = Provider {
    name: "a server that nothing is known about",
    hosts: &[],
    region: Region::Unknown,
    path_style: true,
    conditional_writes: true,
    content_md5: true,
    deletion: Deletion::InBatches(1000),
    headers: &[],
};

/// The first that has the host is taken.
pub(super) const PROVIDERS: [Provider; 11] = [
    Provider {
        name: "Cloudflare R2",
        hosts: &[Host::EndsIn(".r2.cloudflarestorage.com")],
        region: Region::Is("auto"),
        // More fail there.
        deletion: Deletion::InBatches(700),
        ..UNKNOWN
    },
    Provider {
        name: "Backblaze B2",
        hosts: &[Host::EndsIn(".backblazeb2.com")],
        region: Region::InHost,
        conditional_writes: false,
        ..UNKNOWN
    },
    Provider {
        name: "Tigris",
        hosts: &[
            Host::Is("t3.storage.dev"),
            Host::Is("fly.storage.tigris.dev"),
        ],
        region: Region::Is("auto"),
        path_style: false,
        content_md5: false,
        // Else a region may answer that has not heard yet of what another has stored.
        headers: &[("x-tigris-consistent", "true")],
        ..UNKNOWN
    },
    Provider {
        name: "Hetzner Object Storage",
        hosts: &[Host::EndsIn(".your-objectstorage.com")],
        region: Region::InHost,
        ..UNKNOWN
    },
    Provider {
        name: "DigitalOcean Spaces",
        hosts: &[Host::EndsIn(".digitaloceanspaces.com")],
        region: Region::InHost,
        path_style: false,
        ..UNKNOWN
    },
    Provider {
        name: "Scaleway Object Storage",
        hosts: &[Host::EndsIn(".scw.cloud")],
        region: Region::InHost,
        ..UNKNOWN
    },
    Provider {
        name: "Supabase Storage",
        hosts: &[Host::EndsIn(".supabase.co")],
        ..UNKNOWN
    },
    Provider {
        name: "Oracle Cloud Object Storage",
        hosts: &[
            Host::EndsIn(".oraclecloud.com"),
            Host::EndsIn(".oci.customer-oci.com"),
        ],
        region: Region::InHost,
        ..UNKNOWN
    },
    Provider {
        name: "Filebase",
        hosts: &[Host::Is("s3.filebase.com")],
        ..UNKNOWN
    },
    Provider {
        name: "Google Cloud Storage",
        hosts: &[Host::Is("storage.googleapis.com")],
        region: Region::Is("auto"),
        // The API that speaks like S3 has conditions of its own, and no deletion of many.
        conditional_writes: false,
        deletion: Deletion::OneByOne,
        ..UNKNOWN
    },
    Provider {
        name: "MinIO, or what else has a port of its own",
        hosts: &[Host::WithPort],
        ..UNKNOWN
    },
];

impl Provider {
    /// Whose an endpoint is, by its host alone.
    pub(super) fn of(endpoint: &str) -> &'static Self {
        let (host, port) = host(endpoint);
        let known = PROVIDERS.iter().find(|provider| {
            provider.hosts.iter().any(|known| match known {
                Host::Is(name) => host == *name,
                Host::EndsIn(ending) => host.ends_with(ending),
                Host::WithPort => port,
            })
        });
        known.unwrap_or(&UNKNOWN)
    }

    /// The region that requests to an endpoint of this provider are signed for, where it can be known.
    pub(super) fn region(&self, endpoint: &str) -> Option<String> {
        match self.region {
            Region::Is(name) => Some(name.to_owned()),
            Region::Unknown => None,
            Region::InHost => {
                let (host, _) = host(endpoint);
                let before = self.hosts.iter().find_map(|known| match known {
                    Host::EndsIn(ending) => host.strip_suffix(ending),
                    _ => None,
                })?;
                let region = before.rsplit('.').next()?;
                Some(region.to_owned())
            }
        }
    }
}

/// The host that an endpoint names, in lower case, and whether a port stands beside it.
pub(super) fn host(endpoint: &str) -> (String, bool) {
    let endpoint = endpoint.trim().to_ascii_lowercase();
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint.as_str(), |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // An address in brackets has colons of its own.
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host.trim_end_matches('.').into(), true),
        _ => (authority.trim_end_matches('.').into(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints, each with the region that is signed for.
    type Endpoints = &'static [(&'static str, Option<&'static str>)];

    /// Those of each provider.
    const ENDPOINTS: [(&str, Endpoints); 11] = [
        (
            "Cloudflare R2",
            &[
                ("https://0a1b2c.r2.cloudflarestorage.com", Some("auto")),
                ("0a1b2c.eu.r2.cloudflarestorage.com", Some("auto")),
            ],
        ),
        (
            "Backblaze B2",
            &[(
                "https://s3.us-west-004.backblazeb2.com",
                Some("us-west-004"),
            )],
        ),
        (
            "Tigris",
            &[
                ("https://t3.storage.dev", Some("auto")),
                ("https://fly.storage.tigris.dev/", Some("auto")),
            ],
        ),
        (
            "Hetzner Object Storage",
            &[("https://fsn1.your-objectstorage.com", Some("fsn1"))],
        ),
        (
            "DigitalOcean Spaces",
            &[
                ("https://nyc3.digitaloceanspaces.com", Some("nyc3")),
                ("https://bucket.AMS3.digitaloceanspaces.com.", Some("ams3")),
            ],
        ),
        (
            "Scaleway Object Storage",
            &[("s3.fr-par.scw.cloud:443", Some("fr-par"))],
        ),
        (
            "Supabase Storage",
            &[
                ("https://abcd.supabase.co/storage/v1/s3", None),
                ("https://abcd.storage.supabase.co/storage/v1/s3", None),
            ],
        ),
        (
            "Oracle Cloud Object Storage",
            &[
                (
                    "https://space.compat.objectstorage.us-ashburn-1.oraclecloud.com",
                    Some("us-ashburn-1"),
                ),
                (
                    "https://space.compat.objectstorage.eu-zurich-1.oci.customer-oci.com",
                    Some("eu-zurich-1"),
                ),
            ],
        ),
        ("Filebase", &[("https://s3.filebase.com", None)]),
        (
            "Google Cloud Storage",
            &[("https://storage.googleapis.com", Some("auto"))],
        ),
        (
            "MinIO, or what else has a port of its own",
            &[
                ("http://127.0.0.1:9000", None),
                ("https://[::1]:9000", None),
                ("https://minio.example.com:443", None),
            ],
        ),
    ];

    #[test]
    fn every_provider_is_known_by_its_endpoints_and_its_region_with_it() {
        let named = ENDPOINTS.iter().map(|(name, _)| *name);
        assert!(named.eq(PROVIDERS.iter().map(|provider| provider.name)));
        for (name, endpoints) in ENDPOINTS {
            for (endpoint, region) in endpoints {
                let provider = Provider::of(endpoint);
                assert_eq!(provider.name, name, "{endpoint}");
                assert_eq!(provider.region(endpoint).as_deref(), *region, "{endpoint}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_only_looks_like_a_providers_is_not_taken_for_it() {
        for endpoint in [
            "https://r2.cloudflarestorage.com.example.com",
            "https://notscw.cloud",
            "https://example.com/.backblazeb2.com",
            "https://xt3.storage.dev",
            "https://s3.wasabisys.com",
            "https://[::1]",
            "",
        ] {
            assert_eq!(Provider::of(endpoint).name, UNKNOWN.name, "{endpoint}");
        }
    }

    #[test]
    fn what_differs_at_a_provider_is_as_the_table_in_the_manual_says() {
        let manual = include_str!("../../../../../docs/s3.md");
        let word = |yes| if yes { "yes" } else { "no" };
        for provider in PROVIDERS {
            let place = if provider.path_style { "path" } else { "host" };
            let deletion = match provider.deletion {
                Deletion::InBatches(most) => most.to_string(),
                Deletion::OneByOne => "1".to_owned(),
            };
            let region = match provider.region {
                Region::Is(name) => format!("`{name}`"),
                Region::InHost => "of the host".to_owned(),
                Region::Unknown => "yours".to_owned(),
            };
            let row = format!(
                "| {region} | {place} | {} | {deletion} | {} |",
                word(provider.conditional_writes),
                word(provider.content_md5),
            );
            let mut rows = manual.lines();
            let found = rows.any(|line| {
                line.starts_with(&format!("| {} |", provider.name)) && line.contains(&row)
            });
            assert!(found, "{}: {row}", provider.name);
        }
    }
}
