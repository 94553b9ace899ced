//! Regions of Genesys Cloud: each has a domain, and hosts of fixed names in it.

/// Every region: its domain and the name of the AWS region it runs in.
pub const REGIONS: [(&str, &str); 18] = [
    ("mypurecloud.com", "us-east-1"),
    ("usw2.pure.cloud", "us-west-2"),
    ("cac1.pure.cloud", "ca-central-1"),
    ("sae1.pure.cloud", "sa-east-1"),
    ("mxc1.pure.cloud", "mx-central-1"),
    ("mypurecloud.ie", "eu-west-1"),
    ("euw2.pure.cloud", "eu-west-2"),
    ("mypurecloud.de", "eu-central-1"),
    ("euc2.pure.cloud", "eu-central-2"),
    ("mec1.pure.cloud", "me-central-1"),
    ("aps1.pure.cloud", "ap-south-1"),
    ("apne2.pure.cloud", "ap-northeast-2"),
    ("apne3.pure.cloud", "ap-northeast-3"),
    ("mypurecloud.jp", "ap-northeast-1"),
    ("apse1.pure.cloud", "ap-southeast-1"),
    ("mypurecloud.com.au", "ap-southeast-2"),
    ("use2.us-gov-pure.cloud", "us-east-2"),
    ("edee1.eusc-pure.cloud", "eusc-de-east-1"),
];

/// The domain of a region, named by its domain or by its AWS region; `None` if there is no such region.
#[must_use]
pub fn domain(text: &str) -> Option<&'static str> {
    let text = text.trim().to_ascii_lowercase();
    REGIONS.iter().find(|(domain, aws)| text == *domain || text == *aws).map(|(domain, _)| *domain)
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
    fn a_region_goes_by_both_names() {
        assert_eq!(domain(" EU-central-1"), Some("mypurecloud.de"));
        assert_eq!(domain("mypurecloud.de"), Some("mypurecloud.de"));
        assert_eq!(domain("mypurecloud"), None);
    }

    #[test]
    fn no_name_stands_for_two_regions() {
        let names: std::collections::HashSet<_> =
            REGIONS.iter().flat_map(|(domain, aws)| [domain, aws]).collect();
        assert_eq!(names.len(), 36);
    }
}
