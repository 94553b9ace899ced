//! Regions of Genesys Cloud: each has a domain, and hosts of fixed names in it.

/// Every region: its domain, the name of the AWS region it runs in, and the short form of that.
pub const REGIONS: [(&str, &str, &str); 18] = [
    ("mypurecloud.com", "us-east-1", "use1"),
    ("usw2.pure.cloud", "us-west-2", "usw2"),
    ("cac1.pure.cloud", "ca-central-1", "cac1"),
    ("sae1.pure.cloud", "sa-east-1", "sae1"),
    ("mxc1.pure.cloud", "mx-central-1", "mxc1"),
    ("mypurecloud.ie", "eu-west-1", "euw1"),
    ("euw2.pure.cloud", "eu-west-2", "euw2"),
    ("mypurecloud.de", "eu-central-1", "euc1"),
    ("euc2.pure.cloud", "eu-central-2", "euc2"),
    ("mec1.pure.cloud", "me-central-1", "mec1"),
    ("aps1.pure.cloud", "ap-south-1", "aps1"),
    ("apne2.pure.cloud", "ap-northeast-2", "apne2"),
    ("apne3.pure.cloud", "ap-northeast-3", "apne3"),
    ("mypurecloud.jp", "ap-northeast-1", "apne1"),
    ("apse1.pure.cloud", "ap-southeast-1", "apse1"),
    ("mypurecloud.com.au", "ap-southeast-2", "apse2"),
    ("use2.us-gov-pure.cloud", "us-east-2", "use2"),
    ("edee1.eusc-pure.cloud", "eusc-de-east-1", "edee1"),
];

/// The domain of a region, in whatever form people find its name: the domain, a host or an address in it
/// (`api.mypurecloud.de`, `https://apps.mypurecloud.de/directory/`), or the AWS region (`eu-central-1`,
/// `eu_central_1`, `euc1`). `None` if there is no such region.
#[must_use]
pub fn domain(text: &str) -> Option<&'static str> {
    let text = text.trim().to_ascii_lowercase();
    let address = text.split_once("://").map_or(text.as_str(), |(_, address)| address);
    let host = address.split(['/', '?', '#', ':']).next().unwrap_or_default().trim_end_matches('.');
    let aws_name = host.replace('_', "-");
    let is_meant = |domain: &str, aws: &str, short: &str| {
        is_inside(host, domain) || aws_name == aws || aws_name == short
    };
    REGIONS.iter().find(|(domain, aws, short)| is_meant(domain, aws, short)).map(|(domain, ..)| *domain)
}

/// Whether a host is in the domain of a region.
#[must_use]
pub fn has_host(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    REGIONS.iter().any(|(domain, ..)| is_inside(&host, domain))
}

fn is_inside(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Every region, for whoever named one that there is not.
#[must_use]
pub fn list() -> String {
    let named: Vec<_> = REGIONS.iter().map(|(domain, aws, _)| format!("{domain} ({aws})")).collect();
    named.join(", ")
}

/// Address of the REST API of a domain.
#[must_use]
pub fn api_url(domain: &str) -> String {
    format!("https://api.{domain}")
}

/// Address that issues tokens of a domain.
#[must_use]
pub fn login_url(domain: &str) -> String {
    format!("https://login.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_found_in_what_people_paste() {
        for text in [
            "mypurecloud.de",
            " MyPureCloud.de/ ",
            "api.mypurecloud.de",
            "https://login.mypurecloud.de",
            "https://apps.mypurecloud.de/directory/#/engage/admin",
            "https://api.mypurecloud.de:443/api/v2",
            "wss://streaming.mypurecloud.de.",
            "EU-central-1",
            "eu_central_1",
            "euc1",
        ] {
            assert_eq!(domain(text), Some("mypurecloud.de"), "{text}");
        }
        for (text, found) in [
            ("usw2", "usw2.pure.cloud"),
            ("https://apps.usw2.pure.cloud", "usw2.pure.cloud"),
            ("https://login.mypurecloud.com.au/", "mypurecloud.com.au"),
            ("login.use2.us-gov-pure.cloud", "use2.us-gov-pure.cloud"),
            ("edee1", "edee1.eusc-pure.cloud"),
        ] {
            assert_eq!(domain(text), Some(found), "{text}");
        }
        for text in [
            "",
            "mypurecloud",
            "pure.cloud",
            "api",
            "notmypurecloud.de",
            "mypurecloud.de.example.com",
            "https://example.com/mypurecloud.de",
            "mypurecloud.de@example.com",
        ] {
            assert_eq!(domain(text), None, "{text}");
        }
    }

    #[test]
    fn no_name_stands_for_two_regions() {
        let names: std::collections::HashSet<_> =
            REGIONS.iter().flat_map(|(domain, aws, short)| [domain, aws, short]).collect();
        assert_eq!(names.len(), 54);
        for (region, aws, short) in REGIONS {
            assert!([region, aws, short].map(domain) == [Some(region); 3], "{region}");
            assert!(list().contains(&format!("{region} ({aws})")));
        }
    }
}
